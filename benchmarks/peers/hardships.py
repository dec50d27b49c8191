"""Bursts, load near the limit, and callers who leave: what a target makes of them.

In: a running target and the mock, told what to do. Out: figures by name.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request

from benchmarks.peers import metrics
from benchmarks.peers.phases import Bench, Figures, load_of
from benchmarks.peers.plain import asked, read_until
from benchmarks.peers.prompts import chat_body
from benchmarks.peers.targets import Target
from benchmarks.peers.tools import run_load

BURST, BURST_SLOTS, SERVICE_MS = 500, 100, 100
CANCELS = 10
LOOK_SECONDS = 2.5
"""For which a caller's leaving is waited for at the mock."""
DECIDE, LOOP_LAG = "modelfleet_sidecar_decide_seconds", "modelfleet_sidecar_loop_lag_seconds"
DECISION_ID = "x-modelfleet-decision-id"


def burst(bench: Bench, target: Target) -> Figures:
    """Return what becomes of 500 requests at once on 100 slots of 100 ms; the target must have so many slots.

    `decide_p99_ms`: from the sidecar's metric. `besides_p99_ms`: all that a caller waits besides the service
    and a slot, so also for the processor while others are served.
    """
    bench.mock.behave(first_ms=SERVICE_MS)
    before = metrics.buckets(metrics.page(target.admin), DECIDE)
    load = load_of(bench, target, "unary", BURST, requests=BURST, seconds=30.0, keep=DECISION_ID)
    figures = run_load(bench.tools, load)
    after = metrics.buckets(metrics.page(target.admin), DECIDE)
    bench.mock.behave()
    besides = sorted(
        one["whole_ms"] - SERVICE_MS - 1e3 * _waited(target, one["value"]) for one in figures["kept"]
    )
    decide = metrics.quantile(before, after, 0.99)
    return {
        "answered": figures["ok"],
        "shed": BURST - figures["ok"],
        "statuses": figures["statuses"],
        "decide_p99_ms": None if decide is None else round(1e3 * decide, 2),
        "besides_p99_ms": round(besides[int(0.99 * len(besides))], 1) if besides else None,
        "seconds": round(figures["whole_ms"]["max"] / 1e3, 3),
    }


def loop_lag(bench: Bench, target: Target, most_per_s: float) -> Figures:
    """Return how late the sidecar's event loop is at 70 % of the load that it can take."""
    before = metrics.buckets(metrics.page(target.admin), LOOP_LAG)
    load = load_of(bench, target, "unary", 64, rate=0.7 * most_per_s, seconds=2 * bench.effort.seconds)
    figures = run_load(bench.tools, load)
    lag = metrics.quantile(before, metrics.buckets(metrics.page(target.admin), LOOP_LAG), 0.99)
    return {
        "loop_lag_p99_ms": None if lag is None else round(1e3 * lag, 2),
        "rate": round(0.7 * most_per_s, 1),
        "per_s": round(figures["ok"] / figures["seconds"], 1),
        "whole_ms": figures["whole_ms"],
    }


def cancels(bench: Bench, target: Target, *, times: int = CANCELS) -> Figures:
    """Return the milliseconds until the mock sees that a caller left: the median and the most.

    None: the mock went on until its own end.
    """
    return {
        "unary": _cancelled(bench, target, times, stream=False),
        "stream": _cancelled(bench, target, times, stream=True),
    }


def _cancelled(bench: Bench, target: Target, times: int, *, stream: bool) -> Figures | None:
    if stream:
        bench.mock.behave(record=True, between_ms=20, chunks=100)
    else:
        bench.mock.behave(record=True, first_ms=2_000)
    took = []
    for _ in range(times):
        bench.mock.events()
        with asked(target, chat_body("a long story", model="auto", stream=stream)) as connection:
            if stream:
                read_until(connection, b"word4")
            else:
                time.sleep(0.1)
            left = time.time()
        if (seen := _seen_leaving(bench, left)) is None:
            break
        took.append(1e3 * (seen - left))
    bench.mock.behave()
    if not took:
        return None
    return {"p50_ms": round(statistics.median(took), 1), "max_ms": round(max(took), 1)}


def _seen_leaving(bench: Bench, left: float) -> float | None:
    """Return when the mock saw the caller leave; None: its answer ended before, or it never did."""
    while time.time() < left + LOOK_SECONDS:
        for event in bench.mock.events():
            if event["what"] == "cancelled":
                return float(event["at"])
            if event["what"] == "ended":
                return None
        time.sleep(0.005)
    return None


def _waited(target: Target, decision: str) -> float:
    """Return the seconds that a request stood in the queue."""
    with urllib.request.urlopen(f"{target.http}/v1/decisions/{decision}", timeout=10) as response:
        return float(json.load(response)["waited_seconds"])
