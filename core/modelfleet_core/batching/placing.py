"""Stage assign, its middle: from candidates to a program, and from its answer to reservations.

In: candidates, the lease's `Holding`, published prices. Out: for each a `Placed`, or None: no place now.
Next: `queue`, which lets the others wait.

A request that comes alone is placed by prices. Of more `pose` makes the program, `solve` may run in a
thread, `commit` reserves, exactly: what changed meanwhile is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.result import Prices, Termination
from modelfleet_core.assignment.solver import assign
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Certificate, Placed, Weighed, Why
from modelfleet_core.batching.worth import NO_MONEY, NO_SLOT, Look, look
from modelfleet_core.leasing.holding import Holding, Reservation
from modelfleet_core.values import NANO, EndpointUrl, NanoUsd, VariantKey, usd

Spots = dict[VariantKey, dict[EndpointUrl, int]]
"""Free slots by variant and endpoint."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one fleet to be placed together, and what the lease allows them."""

    tickets: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    looks: tuple[Look, ...]
    slot_prices: tuple[float, ...]
    money_price: float
    free: tuple[int, ...]
    """(m,) slots."""
    money: NanoUsd | None
    leased: frozenset[VariantKey]
    """Variants that the lease gives any slot of, free or not."""
    problem: AssignmentProblem | None
    """None: it is placed by prices alone, being one or none."""
    warm: Prices | None
    waits: bool
    """What gets no place goes back to the queue."""

    @property
    def cells(self) -> int:
        """Requests times variants, by which to judge whether solving deserves a thread."""
        return self.problem.quality.size if self.problem is not None else len(self.candidates)


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    batch: Batch
    columns: tuple[tuple[int, ...], ...]
    """What to try for each request, in this order; empty: it waits."""
    certificate: Certificate
    prices: Prices | None
    """Of the batch; None: no program was needed."""


class Placer:
    """Places requests within one lease. `leave_alone` tells endpoints that can not be reached just now."""

    def __init__(
        self,
        holding: Holding,
        *,
        leave_alone: Callable[[EndpointUrl, float], bool] = lambda _endpoint, _now: False,
    ) -> None:
        self._holding = holding
        self._leave_alone = leave_alone
        self._published: Mapping[VariantKey, float] = {}
        self._money_price = 0.0
        self._warm: Prices | None = None

    def set_prices(self, slots: Mapping[VariantKey, float], money: float) -> None:
        """Take over published prices: quality per slot-second by variant, and per USD."""
        self._published = slots
        self._money_price = money

    def slot_prices(self, variants: Sequence[VariantKey]) -> tuple[float, ...]:
        return tuple(self._published.get(variant, 0.0) for variant in variants)

    def look(self, candidate: Candidate, now: float, *, waits: bool = True) -> Look:
        """Return what one request is worth where, at present prices."""
        return look(candidate, self.slot_prices(candidate.variants), self._money_price, now, waits=waits)

    def placeable(self, seen: Sequence[tuple[Candidate, Look]], now: float) -> list[bool]:
        """Return for each request whether the lease could take it now, looking at it alone."""
        money = self._holding.money(now)
        spots = self._spots(now)
        return [
            any(
                not why and variant in spots and (money is None or reserve <= money)
                for variant, reserve, why in zip(
                    candidate.variants, candidate.reserve, look.excluded, strict=True
                )
            )
            for candidate, look in seen
        ]

    def reserved(self) -> int:
        """Return the nano-USD of requests in flight: money that may come back."""
        states = (self._holding.account(period) for period in self._holding.periods())
        return sum(state.reserved for state in states if state is not None)

    def short_of(self, candidate: Candidate, now: float, coming: int = 0) -> str:
        """Return what keeps a request waiting, NO_SLOT or NO_MONEY, if `coming` nano-USD came back."""
        money = self._holding.money(now)
        rows = zip(candidate.reserve, candidate.excluded_by, strict=True)
        least = min((reserve for reserve, why in rows if not why), default=NanoUsd(0))
        return NO_SLOT if money is None or least <= money + coming else NO_MONEY

    def no_place(self, candidate: Candidate, now: float) -> tuple[Why, str]:
        """Return why a request that does not wait finds no place, and what it lacks."""
        short = self.short_of(candidate, now)
        if not self._holding.live(now):
            return Why.NO_LEASE, short
        return (Why.NO_MONEY if short == NO_MONEY else Why.NO_SLOT), short

    def pose(
        self,
        tickets: Sequence[int],
        candidates: Sequence[Candidate],
        now: float,
        *,
        looks: Sequence[Look] | None = None,
    ) -> Batch:
        """Return a batch of requests over the same variants; without `looks` they do not wait."""
        variants = candidates[0].variants if candidates else ()
        if any(candidate.variants != variants for candidate in candidates):
            raise ValueError("a batch is of one fleet; renew the candidates of another one first")
        spots = self._spots(now)
        money = self._holding.money(now)
        prices = self.slot_prices(variants)
        waits = looks is not None
        if looks is None:
            looks = [look(one, prices, self._money_price, now, waits=False) for one in candidates]
        free = tuple(sum(spots.get(variant, {}).values()) for variant in variants)
        return Batch(
            tickets=tuple(tickets),
            candidates=tuple(candidates),
            looks=tuple(looks),
            slot_prices=prices,
            money_price=self._money_price,
            free=free,
            money=money,
            leased=frozenset(
                variant
                for endpoint in self._holding.free(now)
                if (variant := self._holding.variant_of(endpoint)) is not None
            ),
            problem=self._problem(candidates, looks, prices, free, money) if len(candidates) > 1 else None,
            warm=self._warm,
            waits=waits,
        )

    def _problem(
        self,
        candidates: Sequence[Candidate],
        looks: Sequence[Look],
        prices: tuple[float, ...],
        free: tuple[int, ...],
        money: NanoUsd | None,
    ) -> AssignmentProblem:
        rows: tuple[Row, ...] = ()
        if money is not None:
            reserve = np.array([one.reserve for one in candidates], dtype=np.float64) / NANO
            rows = (Row(name=NO_MONEY, use=reserve, limit=usd(money)),)
        return AssignmentProblem(
            weight=np.array([one.weight for one in candidates], dtype=np.float64),
            quality=np.array([one.quality for one in candidates], dtype=np.float64),
            cost=np.array([one.cost for one in candidates], dtype=np.float64),
            service_time=np.array([one.service_time for one in candidates], dtype=np.float64),
            eligible=np.array([[not why for why in seen.excluded] for seen in looks], dtype=np.bool_),
            free=np.array(free, dtype=np.int64),
            slot_price=np.array(prices, dtype=np.float64),
            money_price=self._money_price,
            defer=np.array([seen.defer for seen in looks], dtype=np.float64),
            rows=rows,
            columns=tuple(str(variant) for variant in candidates[0].variants),
        )

    def commit(
        self, solved: Solved, now: float, wanted: Callable[[int], bool] = lambda _ticket: True
    ) -> list[Placed | None]:
        """Reserve what was chosen, for each ticket that is still `wanted`; None: no place for it now."""
        batch = solved.batch
        if solved.prices is not None and batch.waits:
            self._warm = solved.prices
        spots = self._spots(now)
        outcomes: list[Placed | None] = []
        for i, (ticket, candidate) in enumerate(zip(batch.tickets, batch.candidates, strict=True)):
            placed = None
            if solved.columns[i] and wanted(ticket):
                for column in solved.columns[i]:
                    held = self._reserve(candidate, column, spots, now)
                    if held is not None:
                        placed = Placed(
                            ticket=ticket,
                            candidate=candidate,
                            column=column,
                            reservation=held,
                            weighed=weighed(batch, i),
                            certificate=solved.certificate,
                            batch_size=len(batch.tickets),
                        )
                        break
            outcomes.append(placed)
        return outcomes

    def _spots(self, now: float) -> Spots:
        """Return the leased endpoints with free slots, by variant; those that can not be reached only when
        there is no other endpoint at all."""
        free = self._holding.free(now)
        alone = {endpoint for endpoint in free if self._leave_alone(endpoint, now)}
        if len(alone) == len(free):
            alone = set()
        spots: Spots = {}
        for endpoint, slots in free.items():
            if endpoint in alone or slots <= 0:
                continue
            if (variant := self._holding.variant_of(endpoint)) is not None:
                spots.setdefault(variant, {})[endpoint] = slots
        return spots

    def _reserve(self, candidate: Candidate, column: int, spots: Spots, now: float) -> Reservation | None:
        """Take a slot where most are free, and the money; None: one of them is gone meanwhile."""
        free = spots.get(candidate.variants[column])
        if not free:
            return None
        endpoint = max(free, key=free.__getitem__)
        held = self._holding.reserve(now, endpoint, candidate.reserve[column], candidate.held_until(now))
        if not isinstance(held, Reservation):
            return None
        free[endpoint] -= 1
        if not free[endpoint]:
            del free[endpoint]
        return held


def solve(batch: Batch, remaining: Callable[[], float]) -> Solved:
    """Choose for each request of a batch; `remaining()` returns the seconds left.

    Touches nothing but its arguments, so it may run in a thread.
    """
    begun = remaining()
    if batch.problem is None:
        return _by_prices(batch, begun, remaining)
    answer = assign(batch.problem, remaining=remaining, warm=batch.warm)
    certificate = Certificate(
        objective=answer.objective,
        bound=answer.bound,
        gap=answer.gap,
        termination=answer.termination,
        binding=answer.binding,
        seconds=begun - remaining(),
    )
    columns = tuple((j,) if j >= 0 else () for j in answer.choice.tolist())
    return Solved(batch, columns, certificate, answer.prices)


def _by_prices(batch: Batch, begun: float, remaining: Callable[[], float]) -> Solved:
    """Place one request by published prices, without a program."""
    orders: tuple[tuple[int, ...], ...] = ()
    objective = 0.0
    binding: tuple[str, ...] = ()
    if batch.candidates:
        seen = batch.looks[0]
        excluded = _excluded(batch, 0)
        order = tuple(j for j in seen.worthwhile if not excluded[j])
        orders = (order,)
        objective = seen.values[order[0]] if order else -seen.defer
        binding = _binding(batch, seen.favourite, excluded[seen.favourite])
    certificate = Certificate(
        objective=objective,
        bound=objective,
        gap=0.0,
        termination=Termination.OPTIMAL,
        binding=binding,
        seconds=begun - remaining(),
    )
    return Solved(batch, orders, certificate, None)


def _binding(batch: Batch, favourite: int, excluded_by: str) -> tuple[str, ...]:
    """Name what keeps a lone request from its favourite, if sharing it out among several could help."""
    if excluded_by == NO_MONEY:
        return (NO_MONEY,)
    variant = batch.candidates[0].variants[favourite]
    return (f"slots:{variant}",) if excluded_by == NO_SLOT and variant in batch.leased else ()


def _excluded(batch: Batch, i: int) -> tuple[str, ...]:
    """Return why each variant could not be chosen for request `i` of a batch; empty: it could."""
    money = batch.money
    return tuple(
        why or ("" if free > 0 else NO_SLOT) or (NO_MONEY if money is not None and reserve > money else "")
        for why, free, reserve in zip(
            batch.looks[i].excluded, batch.free, batch.candidates[i].reserve, strict=True
        )
    )


def weighed(batch: Batch, i: int) -> Weighed:
    """Return what was known of request `i` when the batch was posed."""
    return Weighed(batch.looks[i], batch.slot_prices, batch.money_price, _excluded(batch, i))
