"""Stage assign: from waiting requests to decisions that hold a slot and money of the lease.

In: `Ask`s, the lease, an estimator. Out: for each a `Decision`, or None: it waits. Next: `forward`.

`prospect` looks at a request when it arrives; `pose` makes the program of a batch; `solve` is arithmetic that
may run in a thread; `commit` reserves, exactly, what was chosen: what changed meanwhile is refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from modelfleet_core.assignment.problem import AssignmentProblem, FloatArray, IntArray, Row
from modelfleet_core.assignment.result import Assignment, Prices
from modelfleet_core.assignment.solver import assign
from modelfleet_core.catalog import Fleet, Model
from modelfleet_core.demand import ModelOffer
from modelfleet_core.estimation.estimate import Estimate
from modelfleet_core.estimation.profile import RequestProfile, profile
from modelfleet_core.leasing.holding import Holding, Reservation
from modelfleet_core.policy import Policy
from modelfleet_core.values import (
    NANO,
    EndpointUrl,
    ModelName,
    NanoUsd,
    TaskName,
    TierName,
    VariantKey,
    usd,
)

from modelfleet_sidecar.chat import AUTO
from modelfleet_sidecar.decision import Ask, Certificate, Considered, Decision, Reason
from modelfleet_sidecar.failures import Failure, Fault

PATIENCE = 5.0
"""Seconds over which the loss of making a request wait grows to its full shed penalty."""
SOLVE_SECONDS = 0.05
SETTLED_BY = 10.0
"""Seconds after its deadline by which a forwarded request has long been settled: the net below that."""
SLOTS, MONEY = "NoFreeSlot", "Budget"
"""Why a variant could not be chosen now; other words in `excluded_by` stay true however long it waits."""


class Estimator(Protocol):
    """What routing needs of an estimator: estimates, and to be told of requests and whole answers."""

    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]: ...
    def saw(self, profile: RequestProfile) -> None: ...
    def answered(self, task: TaskName, output_tokens: int) -> None: ...
    def output_tokens(self) -> Mapping[TaskName, float]: ...


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
    def want(self, wants: Mapping[VariantKey, int], money: NanoUsd) -> None: ...
    def record(self, tier: TierName, task: TaskName, offers: Mapping[ModelName, ModelOffer]) -> None: ...
    async def wait_change(self, timeout: float) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Prospect:
    """One request and what each variant of `fleet` (m of them) would make of it."""

    ask: Ask
    fleet: Fleet
    policy: Policy
    profile: RequestProfile
    variants: tuple[VariantKey, ...]
    quality: FloatArray
    cost: FloatArray
    """USD, expected."""
    service_time: FloatArray
    reserve: IntArray
    """Nano-USD, upper bound."""
    output_limit: tuple[int, ...]
    """Tokens per choice that the variant may be asked for."""
    excluded_by: tuple[str, ...]
    """Why it can never serve this request; empty: it could."""

    @property
    def possible(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([not why for why in self.excluded_by])


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch's program and what it was made of."""

    prospects: tuple[Prospect, ...]
    variants: tuple[VariantKey, ...]
    problem: AssignmentProblem
    reserve: IntArray
    money: NanoUsd | None
    posed_at: float


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    batch: Batch
    assignment: Assignment
    certificate: Certificate


def prospect(ask: Ask, fleet: Fleet, policy: Policy, estimator: Estimator) -> Prospect:
    """Profile a request and estimate every variant. Raises Failure when none could ever serve it."""
    call = ask.call
    most = policy.limits.max_output_tokens
    limit = most if call.asked_output_tokens is None else min(call.asked_output_tokens, most)
    seen = profile(
        call.texts,
        task=ask.task,
        asked_output_tokens=None if call.asked_output_tokens is None else limit * call.choices,
        max_output_tokens=most * call.choices,
        seen_output_tokens=estimator.output_tokens(),
    )
    seen = replace(seen, input_tokens_bound=seen.input_tokens_bound + call.hidden_tokens)
    rows: list[tuple[float, float, float, int, int, str]] = []
    for model, estimate in zip(fleet.models, estimator.estimate(seen, fleet), strict=True):
        room = _output_room(model, seen, limit, call.asked_output_tokens is not None)
        why = "Pinned" if call.model not in (AUTO, model.name) else "" if room else "ContextLength"
        for variant in model.variants:
            seconds = variant.latency.service_time(estimate.output_tokens)
            rows.append((estimate.quality, estimate.cost, seconds, int(estimate.reserve), room, why))
    if all(row[5] for row in rows):
        whose = "any model" if call.model == AUTO else f"model {call.model!r}"
        raise Failure(
            Fault.BAD_REQUEST,
            "ContextLength",
            f"about {seen.input_tokens} input tokens and {limit} output tokens do not fit the context of"
            f" {whose}; shorten messages or max_tokens",
            field="messages",
        )
    quality, cost, seconds_, reserve, rooms, excluded = zip(*rows, strict=True)
    return Prospect(
        ask=ask,
        fleet=fleet,
        policy=policy,
        profile=seen,
        variants=tuple(variant.key for variant in fleet.variants()),
        quality=np.array(quality, dtype=np.float64),
        cost=np.array(cost, dtype=np.float64),
        service_time=np.array(seconds_, dtype=np.float64),
        reserve=np.array(reserve, dtype=np.int64),
        output_limit=rooms,
        excluded_by=excluded,
    )


def offers(seen: Prospect) -> Mapping[ModelName, ModelOffer]:
    """Return what each model that could serve the request offers it, by its fastest variant."""
    best: dict[ModelName, ModelOffer] = {}
    for j, key in enumerate(seen.variants):
        known = best.get(key.model)
        seconds = float(seen.service_time[j])
        if not seen.excluded_by[j] and (known is None or seconds < known.service_time):
            best[key.model] = ModelOffer(float(seen.quality[j]), float(seen.cost[j]), seconds)
    return best


class Assigner:
    """Poses, solves and commits batches within one lease."""

    def __init__(self, *, lease: Lease, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._clock = clock
        self._warm: Prices | None = None

    def values(self, seen: Prospect) -> FloatArray:
        """Return (m,) weighted quality less published prices, minus infinity where it can never be."""
        price = self._slot_prices(seen.variants)
        value = seen.ask.tier.weight * seen.quality - price * seen.service_time
        value = value - self._lease.money_price * seen.cost
        return np.where(seen.possible, value, -np.inf)

    def defer(self, seen: Prospect, now: float) -> float:
        """Return the loss of leaving the request out of this batch; it grows as the request waits."""
        ask = seen.ask
        patience = min(PATIENCE, max(1e-3, ask.deadline - ask.arrived))
        progress = min(1.0, max(0.0, (now - ask.arrived) / patience))
        return ask.tier.weight * seen.policy.shed_penalty * progress

    def pose(self, prospects: Sequence[Prospect]) -> Batch:
        """Return the program of a batch; all prospects are of one fleet."""
        now = self._clock()
        holding = self._lease.holding
        variants = prospects[0].variants
        column = {variant: j for j, variant in enumerate(variants)}
        free = np.zeros(len(variants), dtype=np.int64)
        for endpoint, slots in holding.free(now).items():
            variant = holding.variant_of(endpoint)
            if variant in column:
                free[column[variant]] += slots
        money = holding.money(now)
        reserve = np.stack([seen.reserve for seen in prospects])
        rows: tuple[Row, ...] = ()
        if money is not None:
            rows = (Row(name=MONEY, use=reserve / NANO, limit=usd(money)),)
        problem = AssignmentProblem(
            weight=np.array([seen.ask.tier.weight for seen in prospects], dtype=np.float64),
            quality=np.stack([seen.quality for seen in prospects]),
            cost=np.stack([seen.cost for seen in prospects]),
            service_time=np.stack([seen.service_time for seen in prospects]),
            eligible=np.stack([seen.possible for seen in prospects]),
            free=free,
            slot_price=self._slot_prices(variants),
            money_price=self._lease.money_price,
            defer=np.array([self.defer(seen, now) for seen in prospects], dtype=np.float64),
            rows=rows,
            columns=tuple(str(variant) for variant in variants),
        )
        return Batch(tuple(prospects), variants, problem, reserve, money, now)

    def solve(self, batch: Batch, seconds: float = SOLVE_SECONDS) -> Solved:
        """Assign a batch within `seconds`. Touches nothing of the lease, so it may run in a thread."""
        start = time.perf_counter()
        end = start + seconds
        warm = self._warm
        shape = (len(batch.variants), len(batch.problem.rows))
        if warm is not None and (warm.slots.size, warm.rows.size) != shape:
            warm = None
        solution = assign(batch.problem, remaining=lambda: end - time.perf_counter(), warm=warm)
        self._warm = solution.prices
        return Solved(
            batch,
            solution,
            Certificate(
                objective=solution.objective,
                bound=solution.bound,
                gap=solution.gap,
                termination=solution.termination.value,
                binding=solution.binding,
                seconds=time.perf_counter() - start,
            ),
        )

    def commit(self, solved: Solved, wanted: Callable[[int], bool]) -> list[Decision | None]:
        """Reserve what was chosen, for each request that is still `wanted`; None: no place for it now."""
        now = self._clock()
        batch = solved.batch
        holding = self._lease.holding
        endpoints: dict[VariantKey, dict[EndpointUrl, int]] = {}
        for endpoint, slots in holding.free(now).items():
            if slots > 0 and (variant := holding.variant_of(endpoint)) is not None:
                endpoints.setdefault(variant, {})[endpoint] = slots
        decisions: list[Decision | None] = []
        for i, seen in enumerate(batch.prospects):
            j = int(solved.assignment.choice[i])
            if j < 0 or not wanted(i):
                decisions.append(None)
                continue
            spots = endpoints.get(batch.variants[j], {})
            if not spots:
                decisions.append(None)
                continue
            endpoint = max(spots, key=spots.__getitem__)
            reserved = holding.reserve(now, endpoint, NanoUsd(int(seen.reserve[j])), _held_until(seen, now))
            if not isinstance(reserved, Reservation):
                decisions.append(None)
                continue
            spots[endpoint] -= 1
            if not spots[endpoint]:
                del spots[endpoint]
            decisions.append(self._decision(solved, i, j, reserved, now))
        return decisions

    def short_of(self, seen: Prospect, now: float, coming: int = 0) -> str:
        """Return what keeps a request waiting, SLOTS or MONEY, if `coming` nano-USD came back."""
        money = self._lease.holding.money(now)
        fits = seen.possible if money is None else seen.possible & (seen.reserve <= money + coming)
        return SLOTS if fits.any() else MONEY

    def _slot_prices(self, variants: Sequence[VariantKey]) -> FloatArray:
        prices = self._lease.slot_prices
        return np.array([prices.get(variant, 0.0) for variant in variants], dtype=np.float64)

    def _decision(self, solved: Solved, i: int, j: int, held: Reservation, now: float) -> Decision:
        batch = solved.batch
        seen = batch.prospects[i]
        variant = batch.variants[j]
        model = next(model for model in seen.fleet.models if model.name == variant.model)
        considered = _considered(batch, i)
        return Decision(
            id=f"d-{secrets.token_hex(12)}",
            reservation=held.id,
            variant=variant,
            served_name=model.served_name,
            endpoint=held.endpoint,
            tier=seen.ask.tier.name,
            task=seen.profile.task,
            reason=_reason(batch, i, j, considered),
            quality=float(seen.quality[j]),
            expected_cost=NanoUsd(round(float(seen.cost[j]) * NANO)),
            reserved=NanoUsd(int(seen.reserve[j])),
            pricing=model.pricing,
            max_output_tokens=seen.output_limit[j],
            input_tokens=seen.profile.input_tokens,
            settle_within=held.deadline - now if seen.ask.routed else None,
            considered=considered,
            certificate=solved.certificate,
            batch_size=len(batch.prospects),
            waited=now - seen.ask.arrived,
        )


def _held_until(seen: Prospect, now: float) -> float:
    """Return when the reservation is given up by itself."""
    if seen.ask.routed:
        return now + seen.policy.limits.max_request
    return seen.ask.deadline + SETTLED_BY


def _considered(batch: Batch, i: int) -> Considered:
    seen, problem = batch.prospects[i], batch.problem
    value = problem.weight[i] * seen.quality - problem.slot_price * seen.service_time
    value = value - problem.money_price * seen.cost
    excluded = list(seen.excluded_by)
    for j in range(len(excluded)):
        if not excluded[j] and problem.free[j] <= 0:
            excluded[j] = SLOTS
        elif not excluded[j] and batch.money is not None and seen.reserve[j] > batch.money:
            excluded[j] = MONEY
    figures = np.stack([seen.quality, seen.cost, seen.service_time, problem.slot_price, value])
    return Considered(batch.variants, figures, tuple(excluded))


def _reason(batch: Batch, i: int, j: int, considered: Considered) -> Reason:
    seen = batch.prospects[i]
    if seen.ask.call.model != AUTO:
        return Reason.PINNED
    if int(seen.possible.sum()) == 1:
        return Reason.ONLY_ELIGIBLE
    best = int(np.argmax(np.where(seen.possible, considered.figures[4], -np.inf)))
    if best == j:
        return Reason.BEST_VALUE
    if considered.excluded_by[best] == SLOTS:
        return Reason.SLOTS_BIND
    spent = int(batch.reserve[:, best].sum())
    dear = batch.money is not None and spent > batch.money
    return Reason.BUDGET_BINDS if considered.excluded_by[best] == MONEY or dear else Reason.SLOTS_BIND


def _output_room(model: Model, seen: RequestProfile, limit: int, asked: bool) -> int:
    """Return how many output tokens per choice fit the model's context; 0: the request does not fit."""
    if model.context_tokens is None:
        return limit
    if asked:
        return limit if seen.input_tokens + limit <= model.context_tokens else 0
    # The caller leaves the length open: ask for what is left, surely or at least likely.
    room = model.context_tokens - seen.input_tokens_bound
    if room < min(limit, 256):
        room = model.context_tokens - seen.input_tokens * 5 // 4
    return max(0, min(limit, room))
