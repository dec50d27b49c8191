"""Stage assign, the choice: which variant each request of a batch should have. Pure; may run in a thread.

In: a `Batch` from `placing`. Out: `Solved`, with the certificate and what the batch's limits cost. Next:
`placing` reserves it.

A request that comes alone is placed by published prices; of more, `assignment` solves the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.explain import Reasons, reasons
from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.result import Prices, Termination
from modelfleet_core.assignment.solver import assign
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Certificate, Weighed
from modelfleet_core.batching.room import UNREACHABLE, Room
from modelfleet_core.batching.rows import rows_of
from modelfleet_core.batching.worth import NO_SLOT, Look, look, paced
from modelfleet_core.values import VariantKey


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """Prices of the last batch, by name: the next one may have other rows, or another fleet."""

    slots: Mapping[VariantKey, float]
    rows: Mapping[str, float]

    def prices(self, variants: Sequence[VariantKey], rows: Sequence[Row]) -> Prices:
        """Return them for a program of these columns and rows; what it did not have costs nothing."""
        return Prices(
            slots=np.array([self.slots.get(variant, 0.0) for variant in variants], dtype=np.float64),
            rows=np.array([self.rows.get(row.name, 0.0) for row in rows], dtype=np.float64),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one fleet to be placed together, and what the lease allows them."""

    tickets: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    looks: tuple[Look, ...] | None
    """None: none of them waits, and they are still to be looked at."""
    slot_prices: tuple[float, ...]
    money_price: float
    room: Room
    free: tuple[int, ...]
    """(m,) slots."""
    posed_at: float
    carried: Carried | None

    @property
    def variants(self) -> tuple[VariantKey, ...]:
        return self.candidates[0].variants if self.candidates else ()

    @property
    def cells(self) -> int:
        """Requests times variants of the program, by which to judge whether it deserves a thread."""
        return len(self.candidates) * len(self.variants) if len(self.candidates) > 1 else 0


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    batch: Batch
    looks: tuple[Look, ...]
    columns: tuple[tuple[int, ...], ...]
    """What to try for each request, in this order; empty: it waits."""
    certificate: Certificate
    prices: Carried | None
    """Of the batch; None: no program was needed."""
    reasons: Reasons | None
    """What stood against whom; None as above."""


def solve(batch: Batch, remaining: Callable[[], float]) -> Solved:
    """Choose for each request of a batch; `remaining()` returns the seconds left."""
    begun = remaining()
    looks = batch.looks
    if looks is None:
        looks = tuple(
            [
                look(
                    one,
                    batch.slot_prices,
                    batch.money_price,
                    batch.posed_at,
                    waits=False,
                    spare=batch.room.pacing,
                )
                for one in batch.candidates
            ]
        )
    if len(batch.candidates) <= 1:
        return _alone(batch, looks, begun, remaining)
    problem = _problem(batch, looks)
    warm = batch.carried.prices(batch.variants, problem.rows) if batch.carried is not None else None
    answer = assign(problem, remaining=remaining, warm=warm)
    certificate = Certificate(
        objective=answer.objective,
        bound=answer.bound,
        gap=answer.gap,
        termination=answer.termination,
        binding=answer.binding,
        seconds=begun - remaining(),
    )
    columns = tuple([(j,) if j >= 0 else () for j in answer.choice.tolist()])
    prices = Carried(
        slots=dict(zip(batch.variants, answer.prices.slots.tolist(), strict=True)),
        rows={
            row.name: price
            for row, price in zip(problem.rows, answer.prices.rows.tolist(), strict=True)
            if price > 0
        },
    )
    return Solved(batch, looks, columns, certificate, prices, reasons(problem, answer))


def _problem(batch: Batch, looks: tuple[Look, ...]) -> AssignmentProblem:
    candidates, now = batch.candidates, batch.posed_at
    # What does not wait is told to come back, so pacing may keep it as long as it likes.
    kept = np.array([batch.looks is None or paced(one, now) for one in candidates], dtype=np.bool_)
    eligible = np.array([[not why for why in seen.excluded] for seen in looks], dtype=np.bool_)
    for i, one in enumerate(candidates):
        if one.avoided or batch.room.leaves:
            eligible[i] &= [batch.room.places(one, variant) for variant in batch.variants]
    cost = np.array([one.cost for one in candidates], dtype=np.float64)
    return AssignmentProblem(
        weight=np.array([one.weight for one in candidates], dtype=np.float64),
        quality=np.array([one.compared for one in candidates], dtype=np.float64),
        cost=cost,
        service_time=np.array([one.service_time for one in candidates], dtype=np.float64),
        eligible=eligible,
        free=np.array(batch.free, dtype=np.int64),
        slot_price=np.array(batch.slot_prices, dtype=np.float64),
        money_price=batch.money_price,
        defer=np.array([seen.defer for seen in looks], dtype=np.float64),
        rows=rows_of(candidates, cost, eligible, batch.room, kept),
        columns=tuple(str(variant) for variant in batch.variants),
    )


def _alone(batch: Batch, looks: tuple[Look, ...], begun: float, remaining: Callable[[], float]) -> Solved:
    """Place one request by published prices, without a program."""
    orders: tuple[tuple[int, ...], ...] = ()
    objective = 0.0
    binding: tuple[str, ...] = ()
    if batch.candidates:
        seen = looks[0]
        excluded = batch.room.excluded(batch.candidates[0], seen.excluded)
        order = tuple([j for j in seen.worthwhile if not excluded[j]])
        orders = (order,)
        objective = seen.values[order[0]] if order else -seen.defer
        binding = _binding(batch, seen, excluded[seen.favourite])
    certificate = Certificate(
        objective=objective,
        bound=objective,
        gap=0.0,
        termination=Termination.OPTIMAL,
        binding=binding,
        seconds=begun - remaining(),
    )
    return Solved(batch, looks, orders, certificate, None, None)


def _binding(batch: Batch, seen: Look, excluded_by: str) -> tuple[str, ...]:
    """Name what keeps a lone request from its favourite, if sharing it out among several could help."""
    variant = batch.variants[seen.favourite]
    if excluded_by == NO_SLOT:
        return (f"slots:{variant}",) if variant in batch.room.leased else ()
    if excluded_by == UNREACHABLE:
        return ()
    return (excluded_by,) if excluded_by and not seen.excluded[seen.favourite] else ()


def by_prices(
    values: Sequence[float],
    favourite: int,
    slot_prices: tuple[float, ...],
    money_price: float,
    excluded: tuple[str, ...],
) -> Weighed:
    """Return what was known of a request that was placed by published prices alone."""
    nothing = (0.0,) * len(excluded)
    return Weighed(values, favourite, slot_prices, money_price, excluded, nothing, excluded)


def weighed(solved: Solved, i: int) -> Weighed:
    """Return what was known of request `i` when the batch was solved."""
    batch, seen = solved.batch, solved.looks[i]
    excluded = batch.room.excluded(batch.candidates[i], seen.excluded)
    if solved.reasons is None:
        return by_prices(seen.values, seen.favourite, batch.slot_prices, batch.money_price, excluded)
    stopped = zip(excluded, solved.reasons.stopped_by(i), strict=True)
    return Weighed(
        values=seen.values,
        favourite=seen.favourite,
        slot_prices=batch.slot_prices,
        money_price=batch.money_price,
        excluded_by=excluded,
        paid=tuple(solved.reasons.paid[i].tolist()),
        stopped_by=tuple([why or limit for why, limit in stopped]),
    )
