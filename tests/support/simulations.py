"""Builders of small workloads and scenarios for tests of the simulation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from modelfleet_lab.simulate.scenario import Scenario
from modelfleet_lab.simulate.workload import Workload

TINY = Scenario(sidecars=3, slots=10, duration=6.0, deadline=12.0, concurrency=2, startup=4.0)


def small_load(seed: int, n: int, m: int) -> Workload:
    """Return n requests over m models that compete for few slots, with little time to spare."""
    random = np.random.default_rng(seed)
    arrived = np.sort(random.uniform(0.0, 6.0, n))
    service = random.uniform(0.5, 4.0, (n, m))
    quality = random.uniform(0.1, 1.0, (n, m))
    return Workload(
        arrived=arrived,
        deadline=arrived + random.uniform(2.0, 8.0, n),
        sidecar=np.zeros(n, dtype=np.int64),
        tenant=np.zeros(n, dtype=np.int64),
        task=np.zeros(n, dtype=np.int64),
        weight=random.choice([1.0, 2.0], n),
        output_tokens=np.full(n, 10, dtype=np.int64),
        quality=quality,
        predicted=quality,
        service=service,
        cost=random.uniform(0.1, 1.0, (n, m)),
    )


def best_schedule(load: Workload, slots: list[int], budget: float = float("inf")) -> float:
    """Return the most weighted quality of any schedule, by trying all of them.

    Every schedule's starts can be moved forward until each request starts when it arrives or when its slot
    comes free, so that it is enough to try all orders and all choices of a slot, or of none.
    """
    machines = [j for j, count in enumerate(slots) for _ in range(count)]
    best = 0.0
    for choice in product(range(-1, len(machines)), repeat=len(load)):
        served = [i for i, machine in enumerate(choice) if machine >= 0]
        worth = sum(load.weight[i] * load.quality[i, machines[choice[i]]] for i in served)
        cost = sum(load.cost[i, machines[choice[i]]] for i in served)
        if worth <= best or cost > budget:
            continue
        if any(_in_time(load, order, choice, machines) for order in permutations(served)):
            best = float(worth)
    return best


def _in_time(load: Workload, order: tuple[int, ...], choice: tuple[int, ...], machines: list[int]) -> bool:
    free = [0.0] * len(machines)
    for i in order:
        machine = choice[i]
        free[machine] = max(free[machine], float(load.arrived[i])) + float(load.service[i, machines[machine]])
        if free[machine] > load.deadline[i]:
            return False
    return True
