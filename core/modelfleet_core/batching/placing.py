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

from modelfleet_core.assignment.problem import AssignmentProblem
from modelfleet_core.assignment.result import Prices, Termination
from modelfleet_core.assignment.solver import assign
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Certificate, Placed, Weighed, Why
from modelfleet_core.batching.room import Room, room_of
from modelfleet_core.batching.rows import rows_of
from modelfleet_core.batching.worth import NO_SLOT, Look, look
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.pacing import Pacing
from modelfleet_core.values import AccountName, EndpointUrl, VariantKey, account_parts


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one fleet to be placed together, and what the lease allows them."""

    tickets: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    looks: tuple[Look, ...]
    slot_prices: tuple[float, ...]
    money_price: float
    room: Room
    free: tuple[int, ...]
    """(m,) slots."""
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
        self._published_money = 0.0
        self._pacing = Pacing()
        self._warm: Prices | None = None

    def set_prices(self, slots: Mapping[VariantKey, float], money: float) -> None:
        """Take over published prices: quality per slot-second by variant, and per USD."""
        self._published = slots
        self._published_money = money

    def pace(self, now: float) -> float:
        """Move pacing to `now` and return the price of money."""
        self._pacing.advance(now, self._holding.allowance(now), self._published_money)
        return self._pacing.price

    def offer(self, candidate: Candidate) -> None:
        """Learn from a new request what money gains."""
        usable = [j for j, why in enumerate(candidate.excluded_by) if not why]
        weight = candidate.weight
        self._pacing.offer(
            [weight * candidate.quality[j] for j in usable], [candidate.cost[j] for j in usable]
        )

    def slot_prices(self, variants: Sequence[VariantKey]) -> tuple[float, ...]:
        return tuple([self._published.get(variant, 0.0) for variant in variants])

    def look(self, candidate: Candidate, now: float, *, waits: bool = True) -> Look:
        """Return what one request is worth where, at present prices."""
        prices, money_price = self.slot_prices(candidate.variants), self.pace(now)
        return look(candidate, prices, money_price, now, waits=waits, spare=self._pacing.limit)

    def room(self, now: float, candidate: Candidate | None = None) -> Room:
        """Return what may be used now; after the lease what its floor leaves to the candidate's tier."""
        self.pace(now)
        tier = candidate.tier if candidate is not None else None
        return room_of(self._holding, now, tier, self._leave_alone, self._pacing.limit)

    def placeable(self, seen: Sequence[tuple[Candidate, Look]], now: float) -> list[bool]:
        """Return for each request whether the lease could take it now, looking at it alone."""
        live = self._holding.live(now)
        everyone = self.room(now)
        return [
            any(
                not why and variant in room.spots and not room.short(candidate, j)
                for j, (variant, why) in enumerate(zip(candidate.variants, look.excluded, strict=True))
            )
            for candidate, look in seen
            for room in (everyone if live else self.room(now, candidate),)
        ]

    def reserved(self) -> Mapping[AccountName, int]:
        """Return what requests in flight hold of each account: it may come back."""
        reserved: dict[AccountName, int] = {}
        for account in self._holding.accounts():
            state, (_, name) = self._holding.account(account), account_parts(account)
            if state is not None:
                reserved[name] = reserved.get(name, 0) + state.reserved
        return reserved

    def short_of(
        self, candidate: Candidate, now: float, coming: Mapping[AccountName, int] | None = None
    ) -> str:
        """Return what keeps a request waiting, if `coming` came back: an account, a limit, or NO_SLOT."""
        room = self.room(now, candidate)
        possible = [j for j, why in enumerate(candidate.excluded_by) if not why]
        shorts = [room.short(candidate, j, coming) for j in possible]
        return NO_SLOT if not all(shorts) or not shorts else shorts[0]

    def no_place(self, candidate: Candidate, now: float) -> tuple[Why, str]:
        """Return why a request that does not wait finds no place, and what it lacks."""
        short = self.short_of(candidate, now)
        if not self._holding.live(now) and not self.room(now, candidate).spots:
            return Why.NO_LEASE, short
        limited = short != NO_SLOT and not short.startswith("rate:")
        return (Why.NO_MONEY if limited else Why.NO_SLOT), short

    def pose(
        self,
        tickets: Sequence[int],
        candidates: Sequence[Candidate],
        now: float,
        *,
        looks: Sequence[Look] | None = None,
    ) -> Batch:
        """Return a batch of requests over the same variants; without `looks` they do not wait.

        After the lease floors are each tier's own: pose one request at a time then.
        """
        variants = candidates[0].variants if candidates else ()
        if any(one.variants is not variants and one.variants != variants for one in candidates):
            raise ValueError("a batch is of one fleet; renew the candidates of another one first")
        money_price = self.pace(now)
        prices = self.slot_prices(variants)
        waits = looks is not None
        if looks is None:
            looks = [self.look(one, now, waits=False) for one in candidates]
        live = self._holding.live(now)
        room = self.room(now, None if live or not candidates else candidates[0])
        free = tuple([room.slots(variant) for variant in variants])
        return Batch(
            tickets=tuple(tickets),
            candidates=tuple(candidates),
            looks=tuple(looks),
            slot_prices=prices,
            money_price=money_price,
            room=room,
            free=free,
            problem=_problem(candidates, looks, prices, money_price, room, free)
            if len(candidates) > 1
            else None,
            warm=self._warm,
            waits=waits,
        )

    def commit(
        self, solved: Solved, now: float, wanted: Callable[[int], bool] = lambda _ticket: True
    ) -> list[Placed | None]:
        """Reserve what was chosen, for each ticket that is still `wanted`; None: no place for it now."""
        batch = solved.batch
        if solved.prices is not None and batch.waits:
            self._warm = solved.prices
        live = self._holding.live(now)
        room = batch.room
        if batch.problem is not None:  # solving took its time: others may have settled meanwhile
            room = self.room(now, None if live else batch.candidates[0])
        outcomes: list[Placed | None] = []
        for i, (ticket, candidate) in enumerate(zip(batch.tickets, batch.candidates, strict=True)):
            placed = None
            if solved.columns[i] and wanted(ticket):
                for column in solved.columns[i]:
                    held = self._reserve(candidate, column, room, now)
                    if held is not None:
                        self._pacing.spend(candidate.cost[column])
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

    def _reserve(self, candidate: Candidate, column: int, room: Room, now: float) -> Reservation | None:
        """Take a slot where most are free, and what it charges; None: something is gone meanwhile."""
        free = room.spots.get(candidate.variants[column])
        if not free:
            return None
        endpoint = max(free, key=free.__getitem__)
        held = self._holding.reserve(
            now,
            endpoint,
            candidate.reserve[column],
            candidate.held_until(now),
            charges=candidate.charged(column),
            tier=candidate.tier,
            rates=candidate.rated(column),
        )
        if not isinstance(held, Reservation):
            return None
        free[endpoint] -= 1
        if not free[endpoint]:
            del free[endpoint]
        return held


def _problem(
    candidates: Sequence[Candidate],
    looks: Sequence[Look],
    prices: tuple[float, ...],
    money_price: float,
    room: Room,
    free: tuple[int, ...],
) -> AssignmentProblem:
    eligible = np.array([[not why for why in seen.excluded] for seen in looks], dtype=np.bool_)
    cost = np.array([one.cost for one in candidates], dtype=np.float64)
    return AssignmentProblem(
        weight=np.array([one.weight for one in candidates], dtype=np.float64),
        quality=np.array([one.quality for one in candidates], dtype=np.float64),
        cost=cost,
        service_time=np.array([one.service_time for one in candidates], dtype=np.float64),
        eligible=eligible,
        free=np.array(free, dtype=np.int64),
        slot_price=np.array(prices, dtype=np.float64),
        money_price=money_price,
        defer=np.array([seen.defer for seen in looks], dtype=np.float64),
        rows=rows_of(candidates, cost, eligible, room),
        columns=tuple(str(variant) for variant in candidates[0].variants),
    )


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
    variant = batch.candidates[0].variants[favourite]
    if excluded_by == NO_SLOT:
        return (f"slots:{variant}",) if variant in batch.room.leased else ()
    return (excluded_by,) if excluded_by and not batch.looks[0].excluded[favourite] else ()


def _excluded(batch: Batch, i: int) -> tuple[str, ...]:
    """Return why each variant could not be chosen for request `i` of a batch; empty: it could."""
    candidate, room = batch.candidates[i], batch.room
    words = []
    for j, why in enumerate(batch.looks[i].excluded):
        if not why:
            why = NO_SLOT if batch.free[j] <= 0 else room.short(candidate, j)
        words.append(why)
    return tuple(words)


def weighed(batch: Batch, i: int) -> Weighed:
    """Return what was known of request `i` when the batch was posed."""
    return Weighed(batch.looks[i], batch.slot_prices, batch.money_price, _excluded(batch, i))
