"""Stage assign, first half: one request as it arrives, and what each variant of the fleet would make of it.

In: an `Ask`, the fleet and the policy, an estimator. Out: a `Prospect`, or the `Failure` of a request that
can never be served. Next: `batch` lets it wait, `assign` places it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import LATENCY
from modelfleet_core.catalog import Fleet, Model, Variant
from modelfleet_core.demand import ModelOffer, cells
from modelfleet_core.estimation.estimate import Estimate
from modelfleet_core.estimation.forecast import Question
from modelfleet_core.estimation.latency import Pace
from modelfleet_core.estimation.profile import RequestProfile, profile_of
from modelfleet_core.leasing.rates import rate_uses
from modelfleet_core.policy import OnOverload, Policy, Rule, Tier
from modelfleet_core.records import record
from modelfleet_core.rules import decides
from modelfleet_core.values import EndpointUrl, ModelName, TaskName, VariantKey

from modelfleet_sidecar.added_input import added_input, with_input
from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.eligible import (
    CAPABILITY,
    CONTEXT,
    MINIMUM_QUALITY,
    NO_KEY,
    UNBOUNDED_IMAGE,
    nothing_left,
    unwanted,
)
from modelfleet_sidecar.estimates import Known
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.frame import Frame
from modelfleet_sidecar.incapable import NOTHING
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


@record
class Prospect:
    """One request and what each variant of a fleet (m of them, in its order) would make of it."""

    ask: Ask
    frame: Frame
    profile: RequestProfile
    candidate: Candidate
    """What the core decides on."""
    output_limit: tuple[int, ...]
    """(m,) tokens per choice that the variant may be asked for."""
    input_bound: Sequence[int]
    """By model of the fleet: no server counts more input tokens."""
    known: Known
    base: tuple[float, ...]
    """(m,) quality without what was learned since its estimator was made."""
    paces: Sequence[Pace]
    """(m,) times of answers to expect."""
    load: tuple[float, ...]
    """(m,) share of the variant's slots that this sidecar uses, with this request."""
    evidence: tuple[Sequence[float], Sequence[float], Sequence[float]]
    """Each (m,): standard deviation of quality as an estimate, scored answers behind it, and answers behind
    the service time."""
    asked_as: int
    """Hash of what is asked, with a key of this process."""
    low_confidence: bool = False
    """Whether estimates were not trusted, and models left out for it."""
    explored: VariantKey | None = None
    """What was made the best by chance; None: nothing was."""

    @property
    def fleet(self) -> Fleet:
        return self.frame.fleet

    @property
    def policy(self) -> Policy:
        return self.frame.policy


class Used(NamedTuple):
    """What this sidecar uses of one variant."""

    in_flight: int
    endpoints: int
    """Leased ones."""


NOTHING_USED = Used(0, 0)
NO_USE: Mapping[VariantKey, Used] = MappingProxyType({})


@dataclass(slots=True)
class _Rows:
    """One entry per variant; those that a request's session, tier or policy may change."""

    variants: tuple[VariantKey, ...]
    quality: list[float]
    deviation: list[float]
    cost: list[float]
    first_token: list[float]
    service_time: list[float]
    excluded_by: list[str]


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
    frame: Frame | None = None,
    incapable: Mapping[VariantKey, frozenset[str]] = NOTHING,
) -> Prospect:
    """Profile a request and estimate every variant. Raises Failure when none could ever serve it.

    What `lacks_key` is left out, unless the caller sends the request itself, with a key of its own. `used`:
    what this sidecar uses of variants; absent ones it does not use. `cached`: what is expected to be cached
    of its prompt, which lowers what is expected of its cost and time there, but not the bound of the cost.
    `frame`: of the same fleet and policy; None: it is made for this request. `incapable`: what variants
    turned out to lack, which are left out where it is needed and something else is left.
    """
    call = ask.call
    known_model(call.model, fleet)
    if frame is None:
        frame = Frame(fleet, policy)
    most = policy.limits.max_output_tokens
    asked = call.asked_output_tokens
    limit = most if asked is None else min(asked, most)
    seen = profile_of(
        ask.reading,
        task=ask.task,
        asked_output_tokens=None if asked is None else limit * call.choices,
        max_output_tokens=most * call.choices,
        seen_output_tokens=estimator.output_tokens(),
        told_tokens=call.told_tokens,
        hidden_tokens=call.hidden_tokens,
    )
    rule = ask.matched.rule if ask.matched is not None else None
    known = estimator.estimate(Question(seen, ask.task, ask.features), fleet)
    estimates, rooms, bounds, whys = _by_model(ask, frame, seen, known.estimates.models, limit)
    places = frame.places
    there = [estimates[place] for place in places]
    excluded_by = [whys[place] for place in places]
    if not ask.routed:
        for j, variant in enumerate(frame.variants):
            if not excluded_by[j] and lacks_key(variant):
                excluded_by[j] = NO_KEY
    if incapable:
        _leave_incapable(excluded_by, frame.keys, call.needs, incapable)
    if all(excluded_by):
        raise nothing_left(ask, fleet, policy, excluded_by, estimates, limit=limit)
    output_limit = tuple([rooms[place] for place in places])
    load, paces = [], []
    for variant in frame.variants:
        in_flight, endpoints = used.get(variant.key, NOTHING_USED)
        share = (in_flight + 1) / (max(1, endpoints) * variant.concurrency)
        load.append(share)
        paces.append(estimator.pace(variant, share))
    rows = _Rows(
        variants=frame.keys,
        quality=[one.quality for one in there],
        deviation=[math.sqrt(one.quality_variance) for one in there],
        cost=[one.cost for one in there],
        first_token=[pace.latency.time_to_first_token for pace in paces],
        service_time=[pace.seconds(one.output_tokens) for pace, one in zip(paces, there, strict=True)],
        excluded_by=excluded_by,
    )
    low_confidence = known.estimates.confidence < policy.estimator.min_confidence and _distrust(
        rows, rule, policy, named=call.model != AUTO
    )
    lean = _lean(rows, rule, known.kappa if policy.estimator.kappa is None else policy.estimator.kappa)
    if cached is not None:
        lean = _stay(rows, fleet, cached, lean)
    _aim(rows, ask.tier)
    reserve = tuple([one.reserve for one in there])
    rates: tuple[Mapping[EndpointUrl, int], ...] = ()
    if frame.limited:
        tokens = [bounds[place] + rooms[place] * call.choices for place in places]
        rates = tuple(
            [rate_uses(variant, some) for variant, some in zip(frame.variants, tokens, strict=True)]
        )
    candidate = Candidate(
        variants=frame.keys,
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
        reserve=reserve,
        excluded_by=tuple(excluded_by),
        routed=ask.routed,
        charges=frame.charges(ask, reserve),
        rates=rates,
        lean=lean,
        avoided=ask.avoided,
        caller=ask.caller,
        sheds=ask.tier.on_overload is OnOverload.SHED and not ask.earlier,
        preferred=None if cached is None else cached.endpoint,
        within=math.inf if ask.tier.latency.total is None else ask.tier.latency.total,
    )
    return Prospect(
        ask=ask,
        frame=frame,
        profile=seen,
        candidate=candidate,
        output_limit=output_limit,
        input_bound=bounds,
        known=known,
        base=tuple([one.base for one in there]),
        paces=paces,
        load=tuple(load),
        evidence=(
            rows.deviation,
            [one.samples for one in there],
            [pace.samples for pace in paces],
        ),
        asked_as=asked_as(ask),
        low_confidence=low_confidence,
    )


def _by_model(
    ask: Ask, frame: Frame, seen: RequestProfile, estimates: Sequence[Estimate], limit: int
) -> tuple[Sequence[Estimate], Sequence[int], Sequence[int], Sequence[str]]:
    """Return for each model of the fleet its estimate, output tokens per choice, a bound of input tokens, and
    why it may not answer (empty: it may)."""
    call, models = ask.call, frame.fleet.models
    whys = frame.barred(ask)
    rooms, bounds = [limit] * len(models), [seen.input_tokens_bound] * len(models)
    plain = not call.images and not frame.adds
    bounded = ask.max_cost is None and ask.min_quality <= 0.0
    context = frame.least_context
    if plain and bounded and (context is None or seen.input_tokens_bound + limit < context):
        return estimates, rooms, bounds, whys
    fitted, why_not = list(estimates), list(whys)
    for place, model in enumerate(models):
        there, estimate, why = seen, estimates[place], whys[place]
        added = 0 if plain else added_input(call, model)
        unseen = frame.templates[place] - model.template_tokens
        if added or unseen:
            there, estimate = with_input(seen, estimate, model, added or 0, unseen)
        room = _output_room(model, there, limit, call.asked_output_tokens is not None)
        if not why and added is None and frame.policy.budget is not None:
            why = UNBOUNDED_IMAGE
        fitted[place], rooms[place], bounds[place] = estimate, room or 0, there.input_tokens_bound
        why_not[place] = why or (CONTEXT if room is None else "") or unwanted(estimate, ask)
    return fitted, rooms, bounds, why_not


def _leave_incapable(
    excluded_by: list[str],
    variants: Sequence[VariantKey],
    needs: frozenset[str],
    incapable: Mapping[VariantKey, frozenset[str]],
) -> None:
    """Leave out what turned out to lack what is needed, while something else is left."""
    possible = [j for j, known in enumerate(excluded_by) if not known]
    out = {j: lack for j in possible if (lack := needs & incapable.get(variants[j], frozenset()))}
    if len(out) < len(possible):
        for j, lack in out.items():
            excluded_by[j] = f"{CAPABILITY}{min(lack)}"


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


def known_model(name: str, fleet: Fleet, alias: str = "") -> None:
    """Raise Failure where a caller names a model that the fleet does not have, or an `alias` of one."""
    if name == AUTO or fleet.model(ModelName(name)) is not None:
        return
    known = ", ".join(model.name for model in fleet.models)
    stands = f" (the alias {alias!r} of the policy stands for it)" if alias else ""
    raise Failure(
        Fault.NOT_FOUND,
        "ModelNotFound",
        f"the model {name[:100]!r} is not in the fleet{stands}; use {AUTO!r} or one of: {known}",
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
