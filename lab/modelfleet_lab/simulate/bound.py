"""What a clairvoyant could serve at most, who knows every arrival and deadline and needs no leases.

In: a `Workload` and the slots that were live at each moment. Out: a `Bound`, by which `measures` divides.

Claim: no schedule serves more weighted quality than the program of `program.py`,

    max  sum_ijb worth_ij / service_ij  busy_ijb
    s.t. sum_jb busy_ijb / service_ij <= 1 for every request i;
         sum_i busy_ijb <= slot-seconds of model j in bucket b;
         0 <= busy_ijb <= length of bucket b within [arrived_i, deadline_i];
         sum_ijb cost_ij / service_ij busy_ijb <= budget.

Proof: take any schedule. It answers some requests, each by one model, which holds one slot of it for
`service_ij` seconds somewhere in [arrived_i, deadline_i]. Let `busy_ijb` be the seconds of that within bucket
b; 0 for all other models and requests. A request holds one slot at a time, so a bucket has at most its own
length of it; the buckets together have `service_ij`, so the first row is 1 and the objective counts its worth
exactly once; at every moment at most the live slots are in use, so the second row holds; money is counted as
its cost. So the schedule is a feasible point with its own value, and the optimum is not below it. Where slots
were live only for a part of a bucket, only that part counts. Requests that were not answered whole count
nothing in the schedule and may count something in the program, which makes it larger, not smaller.

Wider buckets make the program smaller and the bound looser, never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.simulate import program
from modelfleet_lab.simulate.workload import Floats, Workload

MOST_CELLS = 120_000
"""Variables of the program; beyond them buckets are wider."""
NARROWEST = 2.0
"""Seconds of a bucket where there is room for it."""

Capacity = Sequence[tuple[float, float, int, int]]
"""(from, to, model, slots): slots that were live in that time."""


class BoundError(Exception):
    """The program was not solved, so there is no bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    quality: float
    """Weighted quality that no schedule exceeds."""
    by_request: Floats
    """(n,) what each request got of it in one optimum."""
    bucket: float
    """Seconds."""


def clairvoyant(load: Workload, capacity: Capacity, budget: float | None = None) -> Bound:
    """Return the bound of all that `load` could be worth on `capacity` within `budget` USD."""
    if not len(load):
        return Bound(0.0, np.zeros(0), NARROWEST)
    spans = float((load.deadline - load.arrived).sum()) * load.quality.shape[1]
    width = max(NARROWEST, spans / MOST_CELLS)
    edges = np.arange(0.0, float(load.deadline.max()) + width, width)
    cells = [cell for i in range(len(load)) for cell in _cells(load, i, edges)]
    used = {(cell.model, cell.bucket) for cell in cells}
    room = {key: seconds for key, seconds in _slot_seconds(capacity, edges).items() if key in used}
    room |= dict.fromkeys(used - room.keys(), 0.0)
    answer = program.solve(cells, room, budget)
    if answer is None:
        raise BoundError(f"the clairvoyant program with {len(cells)} variables was not solved in time")
    by_request = np.zeros(len(load))
    for i, got in answer.by_request.items():
        by_request[i] = got
    return Bound(answer.bound, by_request, width)


def _cells(load: Workload, i: int, edges: Floats) -> list[program.Cell]:
    """Return the variables of one request; a model that could not answer in time has none."""
    arrived, deadline = float(load.arrived[i]), float(load.deadline[i])
    first = int(np.searchsorted(edges, arrived, side="right")) - 1
    last = int(np.searchsorted(edges, deadline, side="left")) - 1
    return [
        program.Cell(
            request=i,
            model=j,
            bucket=b,
            most=most,
            service=float(load.service[i, j]),
            worth=float(load.weight[i] * load.quality[i, j]),
            cost=float(load.cost[i, j]),
        )
        for b in range(first, last + 1)
        if (most := min(deadline, float(edges[b + 1])) - max(arrived, float(edges[b]))) > 0
        for j in range(load.quality.shape[1])
        if load.service[i, j] <= deadline - arrived
    ]


def _slot_seconds(capacity: Capacity, edges: Floats) -> Mapping[tuple[int, int], float]:
    room: dict[tuple[int, int], float] = {}
    for start, end, model, slots in capacity:
        first = max(0, int(np.searchsorted(edges, start, side="right")) - 1)
        for b in range(first, len(edges) - 1):
            overlap = min(end, float(edges[b + 1])) - max(start, float(edges[b]))
            if overlap <= 0:
                break
            room[model, b] = room.get((model, b), 0.0) + overlap * slots
    return room
