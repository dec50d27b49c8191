"""What a target costs while all goes well: CPU, latency, memory.

In: a running target, the load generator, bodies. Out: figures by name. CPU counts, not elapsed time: the
processes' own seconds from /proc, so that a busy machine shifts them little; how busy others kept it is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.processes import Program, busy_seconds
from benchmarks.peers.targets import CHAT, Target
from benchmarks.peers.tools import Load, Mock, Tools, run_load

Figures = dict[str, Any]
CONCURRENCY, STREAMS = 16, 64
FIRST_MS, BETWEEN_MS, CHUNKS = 50, 20, 200
"""Of each paced stream."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float
    """Of each round."""
    streams: int
    """Paced streams of a round in all, 64 at a time; each takes four seconds."""


FULL, QUICK = Effort(3, 6.0, 128), Effort(1, 4.0, 64)


@dataclass(frozen=True, slots=True)
class Bodies:
    """Files of bodies, each of 10,000 or more different prompts."""

    unary: Path
    stream: Path


@dataclass(frozen=True, slots=True)
class Bench:
    """What every phase needs."""

    tools: Tools
    mock: Mock
    bodies: Bodies
    effort: Effort
    say: Callable[[str], None]


def costed(bench: Bench, server: Program, load: Load) -> Figures:
    """Run a load; return its figures with the server's CPU seconds and how many cores others kept busy."""
    mock = bench.mock.program
    before, busy, began = (server.cpu_seconds(), mock.cpu_seconds()), busy_seconds(), time.monotonic()
    figures = run_load(bench.tools, load)
    elapsed = time.monotonic() - began
    spent = server.cpu_seconds() - before[0]
    own = spent + mock.cpu_seconds() - before[1] + figures["cpu_seconds"]
    figures["server_cpu_s"] = spent
    figures["others_cores"] = round(max(0.0, busy_seconds() - busy - own) / elapsed, 2)
    return figures


def unary(bench: Bench, target: Target) -> Figures:
    """Return requests per CPU second of the server, 16 in flight."""
    load = _load(bench, target, "unary", CONCURRENCY)
    run_load(bench.tools, _load(bench, target, "unary", CONCURRENCY, seconds=2.0))
    return per_cpu(bench, target, load, "requests_per_cpu_s", lambda figures: figures["ok"])


def per_cpu(bench: Bench, target: Target, load: Load, name: str, done: Callable[[Figures], float]) -> Figures:
    """Return what `done` counts by CPU second of the server: the median of the rounds, and each."""
    rounds = [costed(bench, target.program, load) for _ in range(bench.effort.rounds)]
    rates = [done(one) / one["server_cpu_s"] for one in rounds]
    bench.say(f"{name}: {', '.join(f'{rate:,.0f}' for rate in rates)}")
    failed = {status: count for one in rounds for status, count in one["statuses"].items() if status != "200"}
    return {
        name: round(statistics.median(rates), 1),
        f"{name}_rounds": [round(rate, 1) for rate in rates],
        "others_cores": [one["others_cores"] for one in rounds],
        "failed": failed,
        "incomplete": sum(one["incomplete"] for one in rounds),
        "per_s": [round(done(one) / one["seconds"], 1) for one in rounds],
        "whole_ms": rounds[-1]["whole_ms"],
        "first_ms": rounds[-1]["first_ms"],
    }


def streams(bench: Bench, target: Target) -> Figures:
    """Return chunks per CPU second, 64 paced streams at a time."""
    bench.mock.behave(first_ms=FIRST_MS, between_ms=BETWEEN_MS, chunks=CHUNKS)
    load = _load(bench, target, "stream", STREAMS, requests=bench.effort.streams, seconds=120.0)
    found = per_cpu(bench, target, load, "chunks_per_cpu_s", lambda figures: figures["ok"] * CHUNKS)
    bench.mock.behave()
    return found


def alone(bench: Bench, target: Target) -> Figures:
    """Return latency with one request at a time."""
    load = _load(bench, target, "unary", 1)
    figures = costed(bench, target.program, load)
    return {"whole_ms": figures["whole_ms"], "others_cores": figures["others_cores"], "ok": figures["ok"]}


def _load(
    bench: Bench,
    target: Target,
    kind: str,
    concurrency: int,
    *,
    requests: int = 0,
    seconds: float | None = None,
) -> Load:
    return Load(
        kind,
        target.http + CHAT,
        bench.bodies.stream if kind == "stream" else bench.bodies.unary,
        concurrency=concurrency,
        requests=requests,
        seconds=bench.effort.seconds if seconds is None else seconds,
        headers=target.headers,
    )
