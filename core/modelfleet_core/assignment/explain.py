"""Stage assign, the reasons: what every column would have given one request, and what stood against it.

In: a solved batch and the number of a request, or one request that was assigned alone. Out: an
`Explanation`. Next: whoever tells the caller. Made on demand from the arrays that are kept anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from modelfleet_core.assignment import certificate
from modelfleet_core.assignment.problem import AssignmentProblem, BoolArray, FloatArray, IntArray
from modelfleet_core.assignment.result import Assignment


class Verdict(Enum):
    CHOSEN = "Chosen"
    NOT_ELIGIBLE = "NotEligible"
    """By rules or objectives, or its figures are not finite."""
    WORTH_LESS = "WorthLess"
    """At published prices it adds less than what was chosen (or than waiting)."""
    LIMIT = "Limit"
    """It adds more, but a limit had no room left: `Explanation.stopped_by` names it."""
    MISSED = "Missed"
    """It adds more and has room: time was up before it was found."""


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """One request; arrays are by column, prices in weighted quality."""

    choice: int
    """-1: it waits."""
    quality: FloatArray
    cost: FloatArray
    """USD"""
    slot_paid: FloatArray
    """Published slot price x service time."""
    money_paid: FloatArray
    """Price of money x expected cost."""
    batch_slot_paid: FloatArray
    """The batch's own price of a slot."""
    rows: tuple[str, ...]
    row_paid: FloatArray
    """(rows, columns) the batch's price of each row x use."""
    net: FloatArray
    """Weighted quality less all of these; minus infinity: its figures are not finite."""
    waiting: float
    """What waiting is worth, to compare `net` with."""
    verdict: tuple[Verdict, ...]
    stopped_by: tuple[str, ...]
    """Name of the limit, as in `Assignment.binding`; empty: none."""


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """A row as one more request meets it."""

    name: str
    use: FloatArray
    """(m,)"""
    left: float
    price: float = 0.0
    """In weighted quality per unit."""


class Batch:
    """A solved batch, summed up once for any number of explanations."""

    def __init__(self, problem: AssignmentProblem, answer: Assignment) -> None:
        self.problem = problem
        self.answer = answer
        slots, rows = certificate.usage(problem, answer.choice)
        self._room: IntArray = np.maximum(problem.free, 0) - slots
        self._left: FloatArray = problem.limit - np.array(rows)

    def explain(self, i: int) -> Explanation:
        """Explain request i. Raises IndexError when the batch has no such request."""
        problem, choice = self.problem, int(self.answer.choice[i])
        rows = []
        for family in problem.families:
            row = int(family.owner[i])
            if row < len(problem.rows):
                use = family.use[:, i]
                own = float(use[choice]) if choice >= 0 else 0.0
                left = float(self._left[row]) + own
                rows.append(Left(problem.rows[row].name, use, left, float(self.answer.prices.rows[row])))
        return explain_one(
            choice=choice,
            weight=float(problem.weight[i]),
            quality=problem.quality[i],
            cost=problem.cost[i],
            service_time=problem.service_time[i],
            slot_price=problem.slot_price,
            money_price=problem.money_price,
            eligible=problem.eligible[i],
            free=self._room,
            defer=float(problem.defer[i]),
            rows=rows,
            columns=[problem.column(j) for j in range(problem.size[1])],
            batch_slot_price=self.answer.prices.slots,
        )


def explain_one(
    *,
    choice: int,
    weight: float,
    quality: FloatArray,
    cost: FloatArray,
    service_time: FloatArray,
    slot_price: FloatArray,
    money_price: float,
    eligible: BoolArray,
    free: IntArray,
    defer: float,
    rows: Sequence[Left],
    columns: Sequence[str],
    batch_slot_price: FloatArray | None = None,
) -> Explanation:
    """Explain a request by what was left when it was assigned. Arrays are (m,).

    `free` and `rows`: what is left beside its own choice. Alone it pays published prices only; in a batch
    also `batch_slot_price` and the rows' prices.
    """
    slot_paid = slot_price * service_time
    money_paid = money_price * cost
    row_paid = np.array([row.price * row.use for row in rows]).reshape(len(rows), quality.size)
    with np.errstate(invalid="ignore"):
        value = weight * quality - slot_paid - money_paid
        value = np.where(np.isfinite(value), value, -np.inf)
    batch_slot_paid = np.zeros(quality.size) if batch_slot_price is None else batch_slot_price
    taken = float(value[choice]) if choice >= 0 else -defer
    verdicts, stops = [], []
    for j, worth in enumerate(value.tolist()):
        full = (row.name for row in rows if row.use[j] > row.left)
        stop = f"slots:{columns[j]}" if free[j] <= 0 else next(full, "")
        verdict = Verdict.LIMIT if stop else Verdict.MISSED
        if j == choice:
            verdict = Verdict.CHOSEN
        elif not eligible[j] or worth == -np.inf:
            verdict = Verdict.NOT_ELIGIBLE
        elif worth <= taken:
            verdict = Verdict.WORTH_LESS
        verdicts.append(verdict)
        stops.append(stop if verdict is Verdict.LIMIT else "")
    return Explanation(
        choice=choice,
        quality=quality,
        cost=cost,
        slot_paid=slot_paid,
        money_paid=money_paid,
        batch_slot_paid=batch_slot_paid,
        rows=tuple(row.name for row in rows),
        row_paid=row_paid,
        net=value - batch_slot_paid - row_paid.sum(axis=0),
        waiting=-defer,
        verdict=tuple(verdicts),
        stopped_by=tuple(stops),
    )
