"""The requests of a run: when they come, to which sidecar, and what each model would make of them.

In: a `Scenario`. Out: a `Workload` of arrays. Next: `world` plays it, `bound` looks at all of it at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from modelfleet_core.estimation.estimate import quality_at

from modelfleet_lab.simulate.scenario import OUTPUT_TOKENS, TASKS, Scenario

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WARM_UP = 5.0
"""Seconds before the first request, in which sidecars find the leader; a fleet stands when traffic comes."""
SPREAD = 0.6
"""Of the logarithm of answers' lengths."""
MOST_TOKENS = 1024
"""Limit of an answer, which servers keep and reserves cover."""
INPUT_TOKENS = 400
PREMIUM_WEIGHT = 2.0
BEYOND = 2**32
"""Set off from the seed for what a hot tenant sends beyond its part."""
SWAPPED = 0.1
"""Part of the sidecars that exchange places at each drift."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """n requests in order of arrival, m models."""

    arrived: Floats
    """(n,) seconds of the run; arrivals begin at `WARM_UP`."""
    deadline: Floats
    """(n,) by when the whole answer is wanted."""
    sidecar: Ints
    """(n,)"""
    tenant: Ints
    """(n,) who asks; the first one may be hot."""
    task: Ints
    """(n,) index into `TASKS`."""
    weight: Floats
    """(n,)"""
    output_tokens: Ints
    """(n,)"""
    quality: Floats
    """(n, m) what an answer is worth."""
    predicted: Floats
    """(n, m) what the sidecar expects of it."""
    service: Floats
    """(n, m) seconds that it holds a slot."""
    cost: Floats
    """(n, m) USD as billed."""

    def __len__(self) -> int:
        return len(self.arrived)


def workload(scenario: Scenario) -> Workload:
    """Return the scenario's requests; its seed decides all of them.

    What a hot tenant sends beyond its part is drawn apart, so that all else is as it would be without it.
    """
    load = _equal(scenario)
    if scenario.hot <= 1.0 or not len(load):
        return load
    more = scenario.load * (scenario.hot - 1.0) / scenario.tenants
    beyond = _equal(replace(scenario, load=more, tenants=1, seed=scenario.seed + BEYOND))
    later = beyond.arrived >= WARM_UP + scenario.hot_after
    order = np.argsort(np.concatenate([load.arrived, beyond.arrived[later]]), kind="stable")
    joined = (
        np.concatenate([getattr(load, field.name), getattr(beyond, field.name)[later]])[order]
        for field in fields(Workload)
    )
    return Workload(*joined)


def _equal(scenario: Scenario) -> Workload:
    """Return the requests of tenants that all send as much."""
    random = np.random.default_rng(scenario.seed)
    arrived, sidecar = _arrivals(scenario, random)
    n = len(arrived)
    task = random.integers(0, len(TASKS), n)
    hardness = random.random(n)
    mean = np.log(OUTPUT_TOKENS) - SPREAD**2 / 2
    tokens = np.clip(np.rint(random.lognormal(mean, SPREAD, n)), 1, MOST_TOKENS).astype(np.int64)
    means = np.array([model.quality for model in scenario.models])
    quality = np.array(
        [[quality_at(means[j, k], h) for j in range(len(means))] for k, h in zip(task, hardness, strict=True)]
    ).reshape(n, len(means))
    predicted = quality
    if scenario.noise > 0:
        predicted = np.clip(quality + scenario.noise * random.standard_normal(quality.shape), 0.0, 1.0)
    first = np.array([model.first_token for model in scenario.models])
    each = np.array([model.per_token for model in scenario.models])
    usd = np.array([model.usd_per_million for model in scenario.models]) / 1e6
    return Workload(
        arrived=arrived,
        deadline=arrived + scenario.deadline,
        sidecar=sidecar,
        tenant=np.random.default_rng((scenario.seed, 1)).integers(0, scenario.tenants, n),
        task=task,
        weight=np.where(random.random(n) < scenario.premium, PREMIUM_WEIGHT, 1.0),
        output_tokens=tokens,
        quality=quality,
        predicted=predicted,
        service=first + each * tokens[:, None],
        cost=usd * (tokens[:, None] + INPUT_TOKENS / 4),
    )


def _arrivals(scenario: Scenario, random: np.random.Generator) -> tuple[Floats, Ints]:
    """Return times and sidecars: a Poisson stream of bursts whose skew over the sidecars drifts."""
    shares = 1.0 / np.arange(1, scenario.sidecars + 1) ** scenario.skew
    shares /= shares.sum()
    order = random.permutation(scenario.sidecars)
    times: list[float] = []
    owners: list[int] = []
    now, drift_at = WARM_UP, WARM_UP + (scenario.drift or np.inf)
    end = WARM_UP + scenario.duration
    while (now := now + random.exponential(scenario.burst / scenario.rate())) < end:
        while now >= drift_at:
            moved = random.choice(scenario.sidecars, max(2, int(SWAPPED * scenario.sidecars)), replace=True)
            order[np.unique(moved)] = order[random.permutation(np.unique(moved))]
            drift_at += scenario.drift
        owner = int(order[random.choice(scenario.sidecars, p=shares)])
        times += [now] * scenario.burst
        owners += [owner] * scenario.burst
    return np.array(times), np.array(owners, dtype=np.int64)
