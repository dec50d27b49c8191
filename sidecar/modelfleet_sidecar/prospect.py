"""Stage assign, first half: one request as it arrives, and what each variant of the fleet would make of it.

In: an `Ask`, the fleet and the policy, an estimator. Out: a `Prospect`, or the `Failure` of a request that
can never be served. Next: `batch` lets it wait, `assign` places it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from modelfleet_core.assignment.problem import FloatArray
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import LATENCY
from modelfleet_core.catalog import Fleet, Model, Variant
from modelfleet_core.demand import ModelOffer, cells
from modelfleet_core.estimation.forecast import Question
from modelfleet_core.estimation.latency import Pace
from modelfleet_core.estimation.profile import RequestProfile, profile_of
from modelfleet_core.leasing.accounts import accounts_of, charges
from modelfleet_core.leasing.rates import rate_uses
from modelfleet_core.policy import OnOverload, Policy, Rule, Tier
from modelfleet_core.rules import decides
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, TaskName, VariantKey

from modelfleet_sidecar.added_input import added_input, with_input
from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.eligible import (
    CONTEXT,
    MINIMUM_QUALITY,
    NO_KEY,
    UNBOUNDED_IMAGE,
    barred,
    nothing_left,
    unwanted,
)
from modelfleet_sidecar.estimates import Known
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.repeats import asked_as
from modelfleet_sidecar.sessions import Cached

LOW_CONFIDENCE = "LowConfidence"
"""Why a variant is left out where estimates are not trusted."""


class Estimator(Protocol):
    """What routing needs of an estimator, and tells it."""

    def estimate(self, question: Question, fleet: Fleet) -> Known: ...
    def pace(self, variant: Variant, load: float) -> Pace: ...
    def saw(self, profile: RequestProfile) -> None: ...
    def output_tokens(self) -> Mapping[TaskName, float]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Prospect:
    """One request and what each variant of `fleet` (m of them, in its order) would make of it."""

    ask: Ask
    fleet: Fleet
    policy: Policy
    profile: RequestProfile
    candidate: Candidate
    """What the core decides on."""
    output_limit: tuple[int, ...]
    """(m,) tokens per choice that the variant may be asked for."""
    known: Known
    base: tuple[float, ...]
    """(m,) quality without what was learned since its estimator was made."""
    load: tuple[float, ...]
    """(m,) share of the variant's slots that this sidecar uses, with this request."""
    evidence: FloatArray
    """(3, m): standard deviation of quality as an estimate, scored answers behind it, and answers behind the
    service time."""
    asked_as: int
    """Hash of what is asked, with a key of this process."""
    low_confidence: bool = False
    """Whether estimates were not trusted, and models left out for it."""
    explored: VariantKey | None = None
    """What was made the best by chance; None: nothing was."""


class Used(NamedTuple):
    """What this sidecar uses of one variant."""

    in_flight: int
    endpoints: int
    """Leased ones."""


NOTHING_USED = Used(0, 0)
NO_USE: Mapping[VariantKey, Used] = MappingProxyType({})


@dataclass(slots=True)
class _Rows:
    """One entry per variant."""

    variants: list[VariantKey] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    deviation: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    service_time: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    paced: list[float] = field(default_factory=list)
    reserve: list[NanoUsd] = field(default_factory=list)
    output_limit: list[int] = field(default_factory=list)
    rates: list[Mapping[EndpointUrl, int]] = field(default_factory=list)
    excluded_by: list[str] = field(default_factory=list)


def no_key_lacks(_variant: Variant) -> bool:
    """Take every variant as usable."""
    return False


def prospect(
    ask: Ask,
    fleet: Fleet,
    policy: Policy,
    estimator: Estimator,
    lacks_key: Callable[[Variant], bool] = no_key_lacks,
    used: Mapping[VariantKey, Used] = NO_USE,
    cached: Cached | None = None,
) -> Prospect:
    """Profile a request and estimate every variant. Raises Failure when none could ever serve it.

    What `lacks_key` is left out, unless the caller sends the request itself, with a key of its own. `used`:
    what this sidecar uses of variants; absent ones it does not use. `cached`: what is expected to be cached
    of its prompt, which lowers what is expected of its cost and time there, but not the bound of the cost.
    """
    call = ask.call
    known_model(call.model, fleet)
    most = policy.limits.max_output_tokens
    limit = most if call.asked_output_tokens is None else min(call.asked_output_tokens, most)
    seen = profile_of(
        ask.reading,
        task=ask.task,
        asked_output_tokens=None if call.asked_output_tokens is None else limit * call.choices,
        max_output_tokens=most * call.choices,
        seen_output_tokens=estimator.output_tokens(),
    )
    seen = replace(
        seen,
        input_tokens=seen.input_tokens + call.told_tokens,
        input_tokens_bound=seen.input_tokens_bound + call.told_tokens + call.hidden_tokens,
    )
    accounts = accounts_of(policy)
    rule = ask.matched.rule if ask.matched is not None else None
    known = estimator.estimate(Question(seen, ask.task, ask.features), fleet)
    rows = _Rows()
    for model, estimate in zip(fleet.models, known.estimates.models, strict=True):
        there = seen
        added = added_input(call, model)
        if added:
            there, estimate = with_input(seen, estimate, model, added)
        room = _output_room(model, there, limit, call.asked_output_tokens is not None)
        why = barred(model, ask, policy)
        if not why and added is None and policy.budget is not None:
            why = UNBOUNDED_IMAGE
        why = why or (CONTEXT if room is None else "") or unwanted(estimate, ask)
        for variant in model.variants:
            unkeyed = NO_KEY if not why and not ask.routed and lacks_key(variant) else ""
            in_flight, endpoints = used.get(variant.key, NOTHING_USED)
            load = (in_flight + 1) / (max(1, endpoints) * variant.concurrency)
            pace = estimator.pace(variant, load)
            rows.variants.append(variant.key)
            rows.quality.append(estimate.quality)
            rows.base.append(estimate.base)
            rows.deviation.append(math.sqrt(estimate.quality_variance))
            rows.samples.append(estimate.samples)
            rows.cost.append(estimate.cost)
            rows.first_token.append(pace.latency.time_to_first_token)
            rows.service_time.append(pace.seconds(estimate.output_tokens))
            rows.load.append(load)
            rows.paced.append(pace.samples)
            rows.reserve.append(estimate.reserve)
            rows.output_limit.append(room or 0)
            rows.rates.append(rate_uses(variant, there.input_tokens_bound + (room or 0) * call.choices))
            rows.excluded_by.append(why or unkeyed)
    if all(rows.excluded_by):
        raise nothing_left(ask, fleet, policy, rows.excluded_by, known.estimates.models, limit=limit)
    low_confidence = known.estimates.confidence < policy.estimator.min_confidence and _distrust(
        rows, rule, policy, named=call.model != AUTO
    )
    lean = _lean(rows, rule, known.kappa if policy.estimator.kappa is None else policy.estimator.kappa)
    if cached is not None:
        lean = _stay(rows, fleet, cached, lean)
    _aim(rows, ask.tier)
    candidate = Candidate(
        variants=tuple(rows.variants),
        tier=ask.tier.name,
        weight=ask.tier.weight,
        shed_penalty=ask.tier.weight * policy.shed_penalty,
        arrived=ask.arrived,
        deadline=ask.deadline,
        longest=policy.limits.max_request,
        quality=tuple(rows.quality),
        # The price of money is that of users' budget, which the judge does not spend.
        cost=(0.0,) * len(rows.cost) if ask.judging else tuple(rows.cost),
        service_time=tuple(rows.service_time),
        reserve=tuple(rows.reserve),
        excluded_by=tuple(rows.excluded_by),
        routed=ask.routed,
        charges=tuple(
            charges(accounts, variant.model, ask.tenant, amount, judging=ask.judging)
            for variant, amount in zip(rows.variants, rows.reserve, strict=True)
        )
        if accounts
        else (),
        rates=tuple(rows.rates) if any(rows.rates) else (),
        lean=lean,
        avoided=ask.avoided,
        caller=ask.caller,
        sheds=ask.tier.on_overload is OnOverload.SHED and not ask.earlier,
        preferred=None if cached is None else cached.endpoint,
        within=math.inf if ask.tier.latency.total is None else ask.tier.latency.total,
    )
    return Prospect(
        ask=ask,
        fleet=fleet,
        policy=policy,
        profile=seen,
        candidate=candidate,
        output_limit=tuple(rows.output_limit),
        known=known,
        base=tuple(rows.base),
        load=tuple(rows.load),
        evidence=np.array((rows.deviation, rows.samples, rows.paced), dtype=np.float64),
        asked_as=asked_as(ask),
        low_confidence=low_confidence,
    )


def _distrust(rows: _Rows, rule: Rule | None, policy: Policy, *, named: bool) -> bool:
    """Leave out what may not answer where estimates are not trusted; return whether anything decides."""
    able = {variant.model for variant, why in zip(rows.variants, rows.excluded_by, strict=True) if not why}
    left = decides(rule, policy.default_model, able, named=named)
    if left is None:
        return False
    for j, variant in enumerate(rows.variants):
        if variant.model not in left:
            rows.excluded_by[j] = rows.excluded_by[j] or LOW_CONFIDENCE
    return True


def _stay(rows: _Rows, fleet: Fleet, cached: Cached, lean: tuple[float, ...]) -> tuple[float, ...]:
    """Let the variant that has the prompt cached count as so much cheaper, faster and better."""
    model = fleet.model(cached.variant.model)
    if model is None or cached.variant not in rows.variants:
        return lean
    j = rows.variants.index(cached.variant)
    rows.cost[j] = max(0.0, rows.cost[j] - cached.saved_cost(model.pricing))
    saved = cached.saved_seconds(rows.first_token[j])
    rows.first_token[j] -= saved
    rows.service_time[j] -= saved
    leant = list(lean or (0.0,) * len(rows.variants))
    leant[j] += cached.lean
    return tuple(leant)


def _aim(rows: _Rows, tier: Tier) -> None:
    """Leave out what the tier's answers should not come from, while something else is left."""
    if tier.minimum_quality:
        _leave_out(rows, rows.quality, lambda quality: quality < tier.minimum_quality, MINIMUM_QUALITY)
    if (within := tier.latency.time_to_first_token) is not None:
        _leave_out(rows, rows.first_token, lambda seconds: seconds > within, LATENCY)


def _leave_out(rows: _Rows, values: Sequence[float], unfit: Callable[[float], bool], why: str) -> None:
    possible = [j for j, known in enumerate(rows.excluded_by) if not known]
    out = [j for j in possible if unfit(values[j])]
    if len(out) < len(possible):
        for j in out:
            rows.excluded_by[j] = why


def _lean(rows: _Rows, rule: Rule | None, kappa: float) -> tuple[float, ...]:
    """Return what is added to each variant's quality where they are compared; empty: nothing."""
    prefers = rule is not None and bool(rule.prefer)
    if not prefers and not kappa:
        return ()
    bonus = rule.bonus if rule is not None else 0.0
    preferred = rule.prefer if rule is not None else frozenset[ModelName]()
    return tuple(
        [
            (bonus if variant.model in preferred else 0.0) - kappa * deviation
            for variant, deviation in zip(rows.variants, rows.deviation, strict=True)
        ]
    )


def known_model(name: str, fleet: Fleet) -> None:
    """Raise Failure where a caller names a model that the fleet does not have."""
    if name == AUTO or fleet.model(ModelName(name)) is not None:
        return
    known = ", ".join(model.name for model in fleet.models)
    raise Failure(
        Fault.NOT_FOUND,
        "ModelNotFound",
        f"the model {name[:100]!r} is not in the fleet; use {AUTO!r} or one of: {known}",
        field="model",
    )


def cluster(seen: Prospect) -> TaskName:
    """Return what the request counts as in demand."""
    named = seen.ask.call.model
    only = None if named == AUTO else ModelName(named)
    return cells.cluster(seen.profile.task, seen.candidate.quality, seen.candidate.service_time, only)


def offers(seen: Prospect) -> Mapping[ModelName, ModelOffer]:
    """Return what each model that could serve the request offers it, by its fastest variant.

    Quality counts as it is compared, so that capacity goes where the policy would have the request.
    """
    best: dict[ModelName, ModelOffer] = {}
    candidate = seen.candidate
    for j, key in enumerate(candidate.variants):
        known = best.get(key.model)
        seconds = candidate.service_time[j]
        if not candidate.excluded_by[j] and (known is None or seconds < known.service_time):
            worth = min(1.0, max(0.0, candidate.compared[j]))
            best[key.model] = ModelOffer(worth, candidate.cost[j], seconds)
    return best


def _output_room(model: Model, seen: RequestProfile, limit: int, asked: bool) -> int | None:
    """Return how many output tokens per choice fit the model's context; None: the request does not fit."""
    if model.context_tokens is None:
        return limit
    if asked:
        return limit if seen.input_tokens + limit <= model.context_tokens else None
    # The caller leaves the length open: ask for what is left, surely or at least likely.
    room = model.context_tokens - seen.input_tokens_bound
    if room < min(limit, 256):
        room = model.context_tokens - seen.input_tokens * 5 // 4
    return min(limit, room) if room > 0 else None
