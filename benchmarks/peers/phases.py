"""What a target costs while all goes well: CPU, latency, memory.

In: a running target, the load generator, bodies. Out: figures by name. CPU counts, not elapsed time: the
processes' own seconds from /proc, so that a busy machine shifts them little; how busy others kept it is told.
Latency is what a target adds to the mock's own, asked directly just before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.messages import SERVICE
from benchmarks.peers.processes import Program, busy_seconds
from benchmarks.peers.targets import CHAT, Target
from benchmarks.peers.tools import Load, Mock, Tools, run_load

Figures = dict[str, Any]
CONCURRENCY, STREAMS = 16, 64
FIRST_MS, BETWEEN_MS, CHUNKS = 50, 20, 200
"""Of each paced stream."""
STREAM_SECONDS = (FIRST_MS + BETWEEN_MS * CHUNKS) / 1e3
KINDS = ("unary", "stream", "grpc", "grpc-stream", "route")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float
    """Of each round."""
    streams: int
    """Paced streams of a round in all, 64 at a time; each takes four seconds."""


FULL, QUICK = Effort(3, 5.0, 64), Effort(1, 4.0, 64)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every phase needs."""

    tools: Tools
    mock: Mock
    bodies: Mapping[str, Path]
    """Files of bodies of 10,000 or more different prompts, one for each of `KINDS`."""
    effort: Effort
    say: Callable[[str], None]


def http_figures(bench: Bench, target: Target) -> Figures:
    """Return what the OpenAI API costs."""
    unary = load_of(bench, target, "unary", CONCURRENCY)
    run_load(bench.tools, replace(unary, seconds=2.0))
    requests = per_cpu(bench, target, unary, "requests_per_cpu_s", 1)
    chunks, in_turn = paced(bench, target, "stream"), paced(bench, target, "stream", spread=True)
    latency = added(bench, target)
    return {
        "requests_per_cpu_s": requests["per_cpu_s"],
        "chunks_per_cpu_s": chunks["per_cpu_s"],
        "added_p50_ms": latency["p50_ms"],
        "added_p99_ms": latency["p99_ms"],
        "added_first_chunk_p50_ms": in_turn["added_first_p50_ms"],
        "unary": requests,
        "streams": chunks,
        "streams_in_turn": in_turn,
        "alone": latency,
    }


def grpc_figures(bench: Bench, target: Target) -> Figures:
    """Return what the gRPC API costs: Complete, Chat, and Route with and without its Settle."""
    complete = load_of(bench, target, "grpc", CONCURRENCY)
    run_load(bench.tools, replace(complete, seconds=2.0))
    requests = per_cpu(bench, target, complete, "complete_per_cpu_s", 1)
    chunks = paced(bench, target, "grpc-stream")
    in_turn = paced(bench, target, "grpc-stream", spread=True)
    latency = added(bench, target, "grpc")
    route = replace(complete, url=_method(target, "Route"), bodies=bench.bodies["route"])
    settled = replace(route, settle=_method(target, "Settle"))
    both = per_cpu(bench, target, settled, "route_and_settle_per_cpu_s", 1)
    # Last, since each of its decisions holds a slot until it expires.
    routes = per_cpu(bench, target, route, "route_per_cpu_s", 1)
    return {
        "requests_per_cpu_s": requests["per_cpu_s"],
        "chunks_per_cpu_s": chunks["per_cpu_s"],
        "route_per_cpu_s": routes["per_cpu_s"],
        "route_and_settle_per_cpu_s": both["per_cpu_s"],
        "added_p50_ms": latency["p50_ms"],
        "added_p99_ms": latency["p99_ms"],
        "added_first_chunk_p50_ms": in_turn["added_first_p50_ms"],
        "unary": requests,
        "streams": chunks,
        "streams_in_turn": in_turn,
        "alone": latency,
        "route": routes,
    }


def costed(bench: Bench, server: Program, load: Load) -> Figures:
    """Run a load; return its figures with the server's CPU seconds and how many cores others kept busy."""
    mock = bench.mock.program
    spent, beside = server.cpu_seconds(), mock.cpu_seconds()
    busy, began = busy_seconds(), time.monotonic()
    figures = run_load(bench.tools, load)
    elapsed = time.monotonic() - began
    figures["server_cpu_s"] = server.cpu_seconds() - spent
    own = figures["server_cpu_s"] + mock.cpu_seconds() - beside + figures["cpu_seconds"]
    figures["others_cores"] = round(max(0.0, busy_seconds() - busy - own) / elapsed, 2)
    return figures


def per_cpu(bench: Bench, target: Target, load: Load, name: str, each: int) -> Figures:
    """Return what is done by CPU second of the server, `each` for a good answer: in the best of the rounds.

    Whatever else a shared machine does only makes its processors slower. What begins in turn takes long and
    is measured once.
    """
    rounds = [costed(bench, target.program, load) for _ in range(1 if load.spread else bench.effort.rounds)]
    rates = [each * one["ok"] / one["server_cpu_s"] for one in rounds]
    bench.say(f"{name}: {', '.join(f'{rate:,.0f}' for rate in rates)}")
    failed: dict[str, int] = {}
    for status, count in ((s, c) for one in rounds for s, c in one["statuses"].items() if s != "200"):
        failed[status] = failed.get(status, 0) + count
    return {
        "per_cpu_s": round(max(rates), 1),
        "rounds": [round(rate, 1) for rate in rates],
        "per_s": round(statistics.median(each * one["ok"] / one["seconds"] for one in rounds), 1),
        "whole_p50_ms": round(statistics.median(one["whole_ms"]["p50"] for one in rounds), 3),
        "whole_p99_ms": round(statistics.median(one["whole_ms"]["p99"] for one in rounds), 3),
        "first_p50_ms": round(statistics.median(one["first_ms"]["p50"] for one in rounds), 3),
        "failed": failed,
        "incomplete": sum(one["incomplete"] for one in rounds),
        "others_cores": [one["others_cores"] for one in rounds],
    }


def paced(bench: Bench, target: Target, kind: str, *, spread: bool = False) -> Figures:
    """Return chunks per CPU second, 64 paced streams at a time, and what the first chunk waits longer.

    The streams begin all at once, and stay in step; or one after the other over the time that one takes, as
    those of users do.
    """
    bench.mock.behave(first_ms=FIRST_MS, between_ms=BETWEEN_MS, chunks=CHUNKS)
    seconds = STREAM_SECONDS if spread else 0.0
    load = load_of(bench, target, kind, STREAMS, requests=bench.effort.streams, seconds=120.0)
    plain = run_load(bench.tools, replace(_direct(bench, "stream", STREAMS), spread=seconds))
    name = "chunks_per_cpu_s, begun in turn" if spread else "chunks_per_cpu_s"
    found = per_cpu(bench, target, replace(load, spread=seconds), name, CHUNKS)
    bench.mock.behave()
    found["added_first_p50_ms"] = round(found["first_p50_ms"] - plain["first_ms"]["p50"], 3)
    return found


def added(bench: Bench, target: Target, kind: str = "unary") -> Figures:
    """Return what one request at a time waits longer than at the mock itself, as differences of quantiles."""
    plain = run_load(bench.tools, _direct(bench, "unary", 1))
    alone = costed(bench, target.program, load_of(bench, target, kind, 1))
    found = {
        f"{name}_ms": round(alone["whole_ms"][name] - plain["whole_ms"][name], 3) for name in ("p50", "p99")
    }
    bench.say(f"added latency, p50 / p99: {found['p50_ms']:.2f} / {found['p99_ms']:.2f} ms")
    return found | {
        "direct_p50_ms": round(plain["whole_ms"]["p50"], 3),
        "direct_p99_ms": round(plain["whole_ms"]["p99"], 3),
        "others_cores": alone["others_cores"],
    }


def load_of(
    bench: Bench,
    target: Target,
    kind: str,
    concurrency: int,
    *,
    requests: int = 0,
    rate: float = 0.0,
    seconds: float | None = None,
    keep: str = "",
) -> Load:
    """Return a load on a target; without `seconds`, as long as a round."""
    url = target.http + CHAT
    if kind.startswith("grpc"):
        url = _method(target, "Complete" if kind == "grpc" else "Chat")
    return Load(
        kind,
        url,
        bench.bodies[kind],
        concurrency=concurrency,
        requests=requests,
        rate=rate,
        seconds=bench.effort.seconds if seconds is None else seconds,
        headers=target.headers,
        keep=keep,
    )


def _direct(bench: Bench, kind: str, concurrency: int) -> Load:
    """Return a load on the mock itself: one round of streams, or half a round of the rest."""
    requests = STREAMS if kind == "stream" else 0
    seconds = 30.0 if kind == "stream" else bench.effort.seconds / 2
    url = bench.mock.urls[0] + CHAT
    return Load(kind, url, bench.bodies[kind], concurrency, seconds=seconds, requests=requests)


def _method(target: Target, name: str) -> str:
    return f"http://{target.grpc}/{SERVICE}/{name}"
