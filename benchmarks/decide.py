"""Measures decisions as the sidecar takes them: from a request's estimates to its reserved slot and money.

    python benchmarks/decide.py --json out/decide.json

The sidecar's own queue and its `RouteBatch` run here over a lease that is granted beforehand, with a budget.
A decision counts in full: looking at the variants, choosing, reserving in the lease, and noting what explains
it. Estimates are made before and settling comes after; neither counts. Seconds are the process's CPU time,
the elapsed time where a core is free; how long the event loop was kept is elapsed time, and noisy where none
is. Limits of the lease are checked after every batch.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import asyncio
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed
from modelfleet_core.batching.queue import Queue
from modelfleet_core.batching.solving import Batch, solve
from modelfleet_core.estimation.profile import read
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Batching, Learning
from modelfleet_core.values import EndpointUrl, nano_usd
from modelfleet_sidecar.assign import decision_of
from modelfleet_sidecar.batch import Batcher, stopwatch
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.offline import OfflineBatches
from modelfleet_sidecar.prospect import Prospect, prospect
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.unreachable import Unreachable
from support.estimators import learned_of, poet_and_clerk
from support.sidecars import GivenLease, Spec, fleet_of, live_estimator, never, policy_of

PATIENCE = 60.0
TEXT = ("Compute 17 * 3 and say why it is odd; then explain how the sum changes. " * 30)[:2000]
TICK = 0.001


@dataclass(frozen=True, slots=True)
class Scene:
    """Requests over m variants, in front of a lease."""

    lease: GivenLease
    prospects: list[Prospect]


def scene(n: int, m: int, seed: int, *, slots: int, dear: float = math.inf) -> Scene:
    """Return n requests over m models of `slots` slots each; dearer models are better, some have no room.

    `dear`: money for so much of what reserving the middle model for everyone takes.
    """
    rng = np.random.default_rng(seed)
    specs = [Spec(f"model-{j:02}", slots=slots) for j in range(m)]
    strength, price = np.linspace(0.35, 0.85, m), 1e-5 * 2.0 ** np.arange(m)
    skill = 0.15 * rng.standard_normal((n, 1)) + 0.08 * rng.standard_normal((n, m))
    quality = np.clip(strength + skill, 0.0, 1.0)
    size = rng.lognormal(0.0, 0.5, (n, 1))
    cost, seconds = price * size, np.linspace(0.5, 4.0, m) * size
    out = rng.random((n, m)) < 0.05
    out[:, 0] = False
    money = nano_usd(Decimal(repr(float(min(dear, 1e3) * 3.0 * cost[:, m // 2].sum()))))
    lease = GivenLease()
    lease.fleet, lease.policy = fleet_of(specs), policy_of(budget=money)
    lease.slot_prices = {spec.key: 0.01 for spec in specs}
    lease.money_price = 0.0 if math.isinf(dear) else 1.0
    lease.grant({EndpointUrl(f"http://{s.name}"): SlotGrant(s.key, slots) for s in specs}, money=money)
    now = boot_clock()
    call = parse_fields({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
    ask = Ask(call, read(call.texts), lease.policy.tiers[1], None, now, now + PATIENCE, routed=True)
    first = prospect(ask, lease.fleet, lease.policy, live_estimator())
    prospects = []
    for i in range(n):
        reserve = tuple([nano_usd(Decimal(repr(float(3.0 * usd)))) for usd in cost[i]])
        candidate = Candidate(
            variants=first.candidate.variants,
            tier=ask.tier.name,
            weight=1.0,
            shed_penalty=1.0,
            arrived=now,
            deadline=now + PATIENCE,
            longest=600.0,
            quality=tuple(quality[i].tolist()),
            cost=tuple(cost[i].tolist()),
            service_time=tuple(seconds[i].tolist()),
            reserve=reserve,
            excluded_by=tuple(["ContextLength" if why else "" for why in out[i].tolist()]),
            routed=True,
            charges=tuple([{BUDGET: bound} for bound in reserve]),
        )
        prospects.append(replace(first, ask=replace(ask), candidate=candidate))
    return Scene(lease, prospects)


def queue_of(scene: Scene) -> Queue:
    left_alone = Unreachable(boot_clock).leave_alone
    queue = Queue(scene.lease.holding, Batching(max_size=64, max_wait=0.02), leave_alone=left_alone)
    queue.set_prices(scene.lease.slot_prices, scene.lease.money_price)
    return queue


def one(rounds: int) -> dict[str, float]:
    """Measure single requests by prices, 8 models, while nothing binds: at once, and through the queue."""
    free = scene(400, 8, 1, slots=400, dear=100.0)
    queue, holding = queue_of(free), free.lease.holding
    at_once: list[float] = []
    queued: list[float] = []
    gc.collect()
    for number in range(rounds):
        for ticket, seen in enumerate(free.prospects):
            now = boot_clock()
            begun = time.process_time()
            outcome: Outcome | None
            if number % 2:
                queue.arrive(ticket, seen.candidate, now)
                (outcome,) = queue.commit(solve(due(queue, now), stopwatch(0.05)), now)
            else:
                outcome = queue.place(ticket, seen.candidate, now)
            if outcome is None or isinstance(outcome, GivenUp):
                raise AssertionError("nothing binds, and yet a request found no place")
            decision_of(outcome, seen, now)
            (queued if number % 2 else at_once).append(time.process_time() - begun)
            holding.cancel(outcome.reservation.id, now)
    return {
        "decide_one_us_p50": 1e6 * statistics.median(at_once),
        "decide_one_us_p99": 1e6 * quantile(at_once, 0.99),
        "decide_one_through_the_queue_us_p50": 1e6 * statistics.median(queued),
    }


async def looking(rounds: int) -> dict[str, float]:
    """Measure what is known of a request of 2,000 characters: read, estimated for 8 models, made a candidate.

    By the manifest's priors where the policy does not learn; then by an estimator and what was learned on it.
    """
    fleet, learns = fleet_of([Spec(f"model-{j:02}") for j in range(8)]), policy_of()
    plain = replace(learns, learning=Learning(enabled=False))
    call = parse_fields({"model": "auto", "messages": [{"role": "user", "content": TEXT}]})
    lease = GivenLease()
    lease.fleet = fleet
    lease.estimator = poet_and_clerk()
    lease.learned = learned_of(lease.estimator.version, {f"model-{j:02}": 0.1 for j in range(8)})
    by_priors, by_training = live_estimator(), live_estimator()
    await by_training.take(lease)
    seconds: dict[str, list[float]] = {"prior": [], "trained": []}
    for _ in range(rounds):
        for name, estimator, policy in (("prior", by_priors, plain), ("trained", by_training, learns)):
            begun = time.process_time()
            reading = read(call.texts)
            features = estimator.features(reading.text, policy)
            ask = Ask(call, reading, policy.tiers[1], None, 0.0, PATIENCE, features=features)
            seen = prospect(ask, fleet, policy, estimator)
            seconds[name].append(time.process_time() - begun)
            if (seen.known.learned_version != "") is not (name == "trained"):
                raise AssertionError("the estimator that is measured is not in force")
    prior, trained = (statistics.median(seconds[name]) for name in ("prior", "trained"))
    return {
        "look_prior_us_p50": 1e6 * prior,
        "look_trained_us_p50": 1e6 * trained,
        "look_trained_us_p99": 1e6 * quantile(seconds["trained"], 0.99),
        "look_ratio": trained / prior,
    }


def due(queue: Queue, now: float) -> Batch:
    batch = queue.due(now)
    if batch is None:
        raise AssertionError("the queue holds requests back that it should assign")
    return batch


def batches(rounds: int) -> dict[str, float]:
    """Measure batches of 64 over 8 models of 6 slots each, warm, with money that binds in half of them."""
    seconds, gaps, waited = [], [], 0
    for dear in (100.0, 0.3):
        # Each batch is of other requests in the same lease.
        some = scene(64 * rounds, 8, 2, slots=6, dear=dear / rounds)
        queue, holding = queue_of(some), some.lease.holding
        for start in range(0, 64 * rounds, 64):
            part = dict(enumerate(some.prospects[start : start + 64], start))
            now = boot_clock()
            gc.collect(0)
            begun = time.process_time()
            for ticket, seen in part.items():
                queue.arrive(ticket, seen.candidate, now)
            solved = solve(due(queue, now), stopwatch(0.05))
            placed = [one for one in queue.commit(solved, now) if isinstance(one, Placed)]
            for answer in placed:
                decision_of(answer, part[answer.ticket], now)
            seconds.append(time.process_time() - begun)
            gaps.append(solved.certificate.gap)
            check(some.lease, 6)
            for ticket in part:
                waited += queue.leave(ticket, now)
            for answer in placed:
                holding.cancel(answer.reservation.id, now)
    return {
        "decide_batch_64x8_ms_p50": 1e3 * statistics.median(seconds),
        "decide_batch_64x8_ms_p99": 1e3 * quantile(seconds, 0.99),
        "decide_batch_64x8_gap_p99": quantile(gaps, 0.99),
        "decide_batch_64x8_waited": float(waited),
    }


class Prepared(Batcher):
    """Knows the prospects of asks beforehand."""

    prospects: Mapping[int, Prospect]

    def look(self, ask: Ask) -> Prospect:
        return self.prospects[id(ask)]


async def large(n: int, m: int, seed: int, dear: float) -> tuple[float, float, float, float]:
    """Return CPU and elapsed seconds of one `RouteBatch`, its gap, and how long the loop was kept at most."""
    it = scene(n, m, seed, slots=n * 7 // (10 * m), dear=dear)
    telemetry = Telemetry()
    batcher = Prepared(
        lease=it.lease,
        estimator=live_estimator(),
        keys=ApiKeys(None, boot_clock),
        leave_alone=Unreachable(boot_clock).leave_alone,
        release=lambda _decision: None,
        clock=boot_clock,
        telemetry=telemetry,
        draw=never,
    )
    batcher.prospects = {id(seen.ask): seen for seen in it.prospects}
    noted: list[Decision] = []
    offline = OfflineBatches(
        lease=it.lease,
        batcher=batcher,
        note=noted.append,
        release=lambda _decisions: None,
        clock=boot_clock,
        telemetry=telemetry,
    )
    gc.collect()
    kept = 0.0

    async def tick() -> None:
        nonlocal kept
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            kept = max(kept, time.perf_counter() - before - TICK)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    begun, elapsed = time.process_time(), time.perf_counter()
    outcomes, certificate = await offline.decide([seen.ask for seen in it.prospects])
    begun, elapsed = time.process_time() - begun, time.perf_counter() - elapsed
    ticking.cancel()
    check(it.lease, n * 7 // (10 * m))
    if certificate is None or [one for one in outcomes if isinstance(one, Decision)] != noted:
        raise AssertionError("a batch was not assigned in whole")
    return begun, elapsed, certificate.gap, kept


def larges(seeds: int) -> dict[str, float]:
    runs = [
        asyncio.run(large(10_000, 12, seed, dear)) for seed in range(seeds) for dear in (math.inf, 0.5, 0.1)
    ]
    seconds, elapsed, gaps, kept = zip(*runs, strict=True)
    return {
        "decide_10000x12_s": statistics.median(seconds),
        "decide_10000x12_s_max": max(seconds),
        "decide_10000x12_elapsed_s": statistics.median(elapsed),
        "decide_10000x12_gap_max": max(gaps),
        "decide_10000x12_loop_kept_ms_p50": 1e3 * statistics.median(kept),
        "decide_10000x12_loop_kept_ms_max": 1e3 * max(kept),
    }


def check(lease: GivenLease, slots: int) -> None:
    """Raise where a limit of the lease is broken."""
    holding = lease.holding
    for endpoint, used in holding.in_flight().items():
        if used > slots:
            raise AssertionError(f"{used} requests are in flight on {slots} slots of {endpoint}")
    for name in holding.accounts():
        state = holding.account(name)
        if state is not None and state.spent + state.reserved > state.granted:
            raise AssertionError(f"{name} is overdrawn: {state}")


def quantile(values: Sequence[float], q: float) -> float:
    """Return the nearest-rank quantile."""
    return float(np.quantile(values, q, method="inverted_cdf"))


TABLE = (
    ("look_prior_us_p50", "what is known, priors p50", "", "", math.inf, 1.0, "us"),
    ("look_trained_us_p50", "the same, trained p50", "<= 900 us", "500 us", 900.0, 1.0, "us"),
    ("look_ratio", "ratio of the two", "", "", math.inf, 1.0, ""),
    ("decide_one_us_p50", "one request by prices p50", "<= 60 us", "20 us", 60.0, 1.0, "us"),
    ("decide_one_us_p99", "one request by prices p99", "", "", math.inf, 1.0, "us"),
    ("decide_batch_64x8_ms_p50", "64 x 8, warm p50", "", "", math.inf, 1.0, "ms"),
    ("decide_10000x12_s", "10,000 x 12", "<= 1.5 s", "0.5 s", 1.5, 1.0, "s"),
    ("decide_10000x12_gap_max", "10,000 x 12: certified gap", "<= 0.1 %", "", 1e-3, 100.0, "%"),
    ("decide_10000x12_loop_kept_ms_p50", "10,000 x 12: loop kept", "<= 50 ms", "", 50.0, 1.0, "ms"),
)
"""Key, words, required, go for, threshold, factor and unit of what is printed."""


def show(figures: dict[str, float]) -> None:
    print(f"{'what':<30}{'required':>12}{'go for':>10}{'measured':>18}")
    for key, words, required, aim, threshold, factor, unit in TABLE:
        text = f"{factor * figures[key]:.3g} {unit}"
        print(
            f"{words:<30}{required:>12}{aim:>10}{text:>18}  {'' if figures[key] <= threshold else 'missed'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, some ten seconds")
    options = parser.parse_args()
    figures = asyncio.run(looking(300 if options.quick else 2000))
    figures |= one(6 if options.quick else 20)
    figures |= batches(20 if options.quick else 100)
    figures |= larges(1 if options.quick else 4)
    show(figures)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
