"""Stage assign: from prospects to decisions that hold a slot and money of the lease.

In: prospects and the lease. Out: for each a `Decision`, or None: it waits. Next: `forward`, or the caller.

A request that comes alone goes through `one`. Of a batch `pose` makes the program, `solve` may run in a
thread, `commit` reserves, exactly: what changed meanwhile is refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from modelfleet_core.assignment import single
from modelfleet_core.assignment.problem import LARGEST, AssignmentProblem, Row
from modelfleet_core.assignment.result import Prices, Termination
from modelfleet_core.assignment.solver import assign
from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import ModelOffer
from modelfleet_core.leasing.holding import Holding, Reservation
from modelfleet_core.leasing.messages import Want
from modelfleet_core.policy import Policy
from modelfleet_core.values import (
    NANO,
    EndpointUrl,
    ModelName,
    NanoUsd,
    TaskName,
    TierName,
    VariantKey,
    base_url,
    usd,
)

from modelfleet_sidecar.decision import Certificate, Considered, Decision
from modelfleet_sidecar.prospect import Prospect
from modelfleet_sidecar.reasons import MONEY, SLOTS, TOO_DEAR, TOO_LATE, reason_of
from modelfleet_sidecar.unreachable import Unreachable

PATIENCE = 5.0
"""Seconds that a request waits at most for its favourite while another model has a slot for it; no longer
than the favourite would take to answer."""
SOLVE_SECONDS = 0.05
SETTLED_BY = 10.0
"""Seconds after its deadline by which a forwarded request has long been settled: the net below that."""
WORTH_IT = 1e-6
"""Quality by which the same answer is better now than later."""


Spots = dict[VariantKey, dict[EndpointUrl, int]]
"""Free slots by variant and endpoint."""


class Lease(Protocol):
    """What routing needs of the lease client."""

    @property
    def holding(self) -> Holding: ...
    @property
    def fleet(self) -> Fleet | None: ...
    @property
    def policy(self) -> Policy | None: ...
    @property
    def slot_prices(self) -> Mapping[VariantKey, float]: ...
    @property
    def money_price(self) -> float: ...
    @property
    def refusal(self) -> str: ...
    def want(self, wants: Mapping[VariantKey, Want], money: NanoUsd) -> None: ...
    def record(self, tier: TierName, task: TaskName, offers: Mapping[ModelName, ModelOffer]) -> None: ...
    async def wait_change(self, timeout: float) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch's program and what it was made of."""

    prospects: tuple[Prospect, ...]
    problem: AssignmentProblem
    money: NanoUsd | None


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    batch: Batch
    choice: tuple[int, ...]
    """Column of each request; -1: it waits."""
    certificate: Certificate


class Assigner:
    """Assigns requests within one lease."""

    def __init__(self, *, lease: Lease, unreachable: Unreachable, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._unreachable = unreachable
        self._clock = clock
        self._warm: Prices | None = None

    def values(self, seen: Prospect) -> list[float]:
        """Return for each variant the weighted quality less published prices."""
        money_price = self._lease.money_price
        weight = seen.ask.tier.weight
        prices = self._slot_prices(seen.variants)
        rows = zip(seen.quality, seen.cost, seen.service_time, prices, strict=True)
        return [
            single.value(
                weight=weight,
                quality=quality,
                cost=cost,
                service_time=seconds,
                slot_price=slot_price,
                money_price=money_price,
            )
            for quality, cost, seconds, slot_price in rows
        ]

    def favourite(self, seen: Prospect) -> int:
        """Return the variant that would be chosen if nothing were short."""
        values = self.values(seen)
        excluded = self._excluded(seen, self._clock())
        if all(excluded):
            excluded = list(seen.excluded_by)
        return max((j for j, why in enumerate(excluded) if not why), key=values.__getitem__)

    def _excluded(self, seen: Prospect, now: float) -> list[str]:
        """Return why each variant is out of the question now, whatever is free; empty: it is not.

        A slot that nobody takes is lost, money is not: so a price of slots never stands against serving at
        all, but what costs more at the price of money than no answer loses is left to other requests.
        """
        money_price = self._lease.money_price
        weight = seen.ask.tier.weight
        kept = [weight * q - money_price * cost for q, cost in zip(seen.quality, seen.cost, strict=True)]
        in_time = seen.in_time(now)
        open_ = [value for value, could in zip(kept, in_time, strict=True) if could]
        least = min(-weight * seen.policy.shed_penalty, max(open_, default=0.0))
        return [
            why or ("" if could else TOO_LATE) or (TOO_DEAR if value < least else "")
            for why, could, value in zip(seen.excluded_by, in_time, kept, strict=True)
        ]

    def _allowed(self, seen: Prospect, now: float) -> list[bool]:
        return [not why for why in self._excluded(seen, now)]

    def worthwhile(self, seen: Prospect) -> tuple[int, ...]:
        """Return the variants that are worth more than waiting, best first."""
        now = self._clock()
        values, allowed = self.values(seen), self._allowed(seen, now)
        return single.rank(values, allowed, defer=_defer(seen, values, allowed, now))

    def short_of(self, seen: Prospect, now: float, coming: int = 0) -> str:
        """Return what keeps a request waiting, SLOTS or MONEY, if `coming` nano-USD came back."""
        money = self._lease.holding.money(now)
        possible = [reserve for reserve, why in zip(seen.reserve, seen.excluded_by, strict=True) if not why]
        return SLOTS if money is None or min(possible) <= money + coming else MONEY

    def placeable(self, prospects: Sequence[Prospect]) -> list[bool]:
        """Return for each request whether the lease could take it now, looking at it alone."""
        now = self._clock()
        money = self._lease.holding.money(now)
        spots = self._spots(now)
        return [
            any(
                could and variant in spots and (money is None or reserve <= money)
                for variant, reserve, could in zip(
                    seen.variants, seen.reserve, self._allowed(seen, now), strict=True
                )
            )
            for seen in prospects
        ]

    def one(self, seen: Prospect) -> tuple[Decision | None, Certificate]:
        """Assign a request that comes alone: by price, without a program."""
        start = time.perf_counter()
        now = self._clock()
        money = self._lease.holding.money(now)
        spots = self._spots(now)
        values = self.values(seen)
        considered = self._considered(seen, values, spots, money, now)
        defer = _defer(seen, values, self._allowed(seen, now), now)
        order = single.rank(values, [not why for why in considered.excluded_by], defer=defer)
        favourite = self.favourite(seen)
        objective = values[order[0]] if order else -defer
        certificate = Certificate(
            objective=objective,
            bound=objective,
            gap=0.0,
            termination=Termination.OPTIMAL.value,
            binding=self._binding(seen.variants[favourite], considered.excluded_by[favourite], now),
            seconds=time.perf_counter() - start,
        )
        for j in order:
            held = self._reserve(seen, j, spots, now)
            if held is not None:
                return self._decision(seen, j, held, considered, certificate, 1, now), certificate
        return None, certificate

    def pose(self, prospects: Sequence[Prospect], *, waits: bool = True) -> Batch:
        """Return the program of a batch of one fleet; what gets no place `waits`, or else is refused."""
        now = self._clock()
        variants = prospects[0].variants
        spots = self._spots(now)
        money = self._lease.holding.money(now)
        eligible = [self._allowed(seen, now) for seen in prospects]
        defer = [
            _defer(seen, self.values(seen), allowed, now, waits=waits)
            for seen, allowed in zip(prospects, eligible, strict=True)
        ]
        rows: tuple[Row, ...] = ()
        if money is not None:
            reserve = np.array([seen.reserve for seen in prospects], dtype=np.float64) / NANO
            rows = (Row(name=MONEY, use=reserve, limit=usd(money)),)
        problem = AssignmentProblem(
            weight=np.array([seen.ask.tier.weight for seen in prospects], dtype=np.float64),
            quality=np.array([seen.quality for seen in prospects], dtype=np.float64),
            cost=np.array([seen.cost for seen in prospects], dtype=np.float64),
            service_time=np.array([seen.service_time for seen in prospects], dtype=np.float64),
            eligible=np.array(eligible, dtype=np.bool_),
            free=np.array([sum(spots.get(variant, {}).values()) for variant in variants], dtype=np.int64),
            slot_price=np.array(self._slot_prices(variants), dtype=np.float64),
            money_price=self._lease.money_price,
            defer=np.array(defer, dtype=np.float64),
            rows=rows,
            columns=tuple(str(variant) for variant in variants),
        )
        return Batch(tuple(prospects), problem, money)

    def solve(self, batch: Batch, seconds: float = SOLVE_SECONDS) -> Solved:
        """Assign a batch within `seconds`. Touches nothing of the lease, so it may run in a thread."""
        start = time.perf_counter()
        end = start + seconds
        solution = assign(batch.problem, remaining=lambda: end - time.perf_counter(), warm=self._warm)
        self._warm = solution.prices
        certificate = Certificate(
            objective=solution.objective,
            bound=solution.bound,
            gap=solution.gap,
            termination=solution.termination.value,
            binding=solution.binding,
            seconds=time.perf_counter() - start,
        )
        return Solved(batch, tuple(solution.choice.tolist()), certificate)

    def commit(self, solved: Solved, wanted: Callable[[int], bool]) -> list[Decision | None]:
        """Reserve what was chosen, for each request that is still `wanted`; None: no place for it now."""
        now = self._clock()
        batch = solved.batch
        spots = self._spots(now)
        before = {variant: dict(free) for variant, free in spots.items()}
        decisions: list[Decision | None] = []
        for i, (seen, j) in enumerate(zip(batch.prospects, solved.choice, strict=True)):
            held = self._reserve(seen, j, spots, now) if j >= 0 and wanted(i) else None
            if held is None:
                decisions.append(None)
                continue
            considered = self._considered(seen, self.values(seen), before, batch.money, now)
            size = len(batch.prospects)
            decisions.append(self._decision(seen, j, held, considered, solved.certificate, size, now))
        return decisions

    def _binding(self, favourite: VariantKey, excluded_by: str, now: float) -> tuple[str, ...]:
        """Name what keeps a lone request from its favourite, if sharing it out among several could help."""
        if excluded_by == MONEY:
            return (MONEY,)
        holding = self._lease.holding
        leased = any(holding.variant_of(endpoint) == favourite for endpoint in holding.free(now))
        return (f"slots:{favourite}",) if excluded_by == SLOTS and leased else ()

    def _slot_prices(self, variants: Sequence[VariantKey]) -> list[float]:
        prices = self._lease.slot_prices
        return [prices.get(variant, 0.0) for variant in variants]

    def _spots(self, now: float) -> Spots:
        """Return the leased endpoints with free slots, by variant; those that can not be reached only when
        there is no other endpoint at all."""
        holding = self._lease.holding
        free = holding.free(now)
        alone = {endpoint for endpoint in free if self._unreachable.leave_alone(endpoint, now)}
        if len(alone) == len(free):
            alone = set()
        spots: Spots = {}
        for endpoint, slots in free.items():
            if endpoint in alone or slots <= 0:
                continue
            if (variant := holding.variant_of(endpoint)) is not None:
                spots.setdefault(variant, {})[endpoint] = slots
        return spots

    def _reserve(self, seen: Prospect, j: int, spots: Spots, now: float) -> Reservation | None:
        """Take a slot where most are free, and the money; None: one of them is gone meanwhile."""
        free = spots.get(seen.variants[j])
        if not free:
            return None
        endpoint = max(free, key=free.__getitem__)
        held = self._lease.holding.reserve(now, endpoint, seen.reserve[j], _held_until(seen, now))
        if not isinstance(held, Reservation):
            return None
        free[endpoint] -= 1
        if not free[endpoint]:
            del free[endpoint]
        return held

    def _considered(
        self, seen: Prospect, values: Sequence[float], spots: Spots, money: NanoUsd | None, now: float
    ) -> Considered:
        excluded = self._excluded(seen, now)
        for j, variant in enumerate(seen.variants):
            if excluded[j]:
                continue
            if not spots.get(variant):
                excluded[j] = SLOTS
            elif money is not None and seen.reserve[j] > money:
                excluded[j] = MONEY
        prices = self._slot_prices(seen.variants)
        figures = np.array([seen.quality, seen.cost, seen.service_time, prices, values], dtype=np.float64)
        return Considered(seen.variants, figures, self._lease.money_price, tuple(excluded))

    def _decision(
        self,
        seen: Prospect,
        j: int,
        held: Reservation,
        considered: Considered,
        certificate: Certificate,
        batch_size: int,
        now: float,
    ) -> Decision:
        variant = seen.variants[j]
        model = next(model for model in seen.fleet.models if model.name == variant.model)
        return Decision(
            id=f"d-{secrets.token_hex(12)}",
            reservation=held.id,
            variant=variant,
            served_name=model.served_name,
            endpoint=base_url(held.endpoint),
            tier=seen.ask.tier.name,
            task=seen.profile.task,
            reason=reason_of(seen, j, self.favourite(seen), considered, certificate),
            quality=seen.quality[j],
            expected_cost=NanoUsd(round(seen.cost[j] * NANO)),
            reserved=held.amount,
            pricing=model.pricing,
            max_output_tokens=seen.output_limit[j],
            input_tokens=seen.profile.input_tokens,
            settle_within=held.deadline - now if seen.ask.routed else None,
            considered=considered,
            certificate=certificate,
            batch_size=batch_size,
            waited=now - seen.ask.arrived,
        )


def _defer(
    seen: Prospect, values: Sequence[float], allowed: Sequence[bool], now: float, *, waits: bool = True
) -> float:
    """Return the loss of giving the request no place now; `allowed`: the variants that are in time.

    What `waits` gets its favourite or, with a chance that grows to 1 meanwhile, nothing. So it goes to its
    favourite at once, and to others the sooner the less it loses by it. Published prices may all be above
    what any answer is worth: they choose among models, and keep no request from a slot nobody else takes.
    """
    nothing = -seen.ask.tier.weight * seen.policy.shed_penalty
    sane = [
        (value, seconds)
        for value, seconds, could in zip(values, seen.service_time, allowed, strict=True)
        if could and abs(value) <= LARGEST
    ]
    if not sane:
        return -nothing
    favourite, seconds = max(sane, key=lambda row: row[0])
    worst = min(nothing, *(value for value, _ in sane))
    patience = min(PATIENCE, seconds, seen.latest_start - seen.ask.arrived)
    waited = max(0.0, now - seen.ask.arrived)
    chance = waited / patience if waits and waited < patience else 1.0
    return WORTH_IT - (1.0 - chance) * favourite - chance * worst


def _held_until(seen: Prospect, now: float) -> float:
    """Return when the reservation is given up by itself."""
    if seen.ask.routed:
        return now + seen.policy.limits.max_request
    return seen.ask.deadline + SETTLED_BY
