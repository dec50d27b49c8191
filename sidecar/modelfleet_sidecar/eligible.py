"""Stage assign, its filter: which models may answer a request at all, whatever is free.

In: an `Ask`, its policy, a model. Out: the word by which explanations name what is against it, in the
order of `docs/requests.md`, or the `Failure` of a request for which nothing is left. Next: `prospect`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelfleet_core.catalog import Fleet, Model
from modelfleet_core.estimation.estimate import Estimate
from modelfleet_core.policy import Policy
from modelfleet_core.rules import forbids
from modelfleet_core.values import NanoUsd, usd

from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.wishes import EXCLUDE_HEADER, MAX_COST_HEADER, MIN_QUALITY_HEADER

PINNED, POLICY, TIER, EXCLUDED, CONTEXT = "Pinned", "Policy", "Tier", "Excluded", "ContextLength"
MAX_COST, MIN_QUALITY, NO_KEY = "MaxCost", "MinQuality", "NoApiKey"
UNBOUNDED_IMAGE = "UnboundedImage"
"""Why a model is left out that does not say how many tokens an image has, where a budget needs a bound."""
RULE = "rule:"
"""Before the name of the rule that keeps its requests from a model."""
CAPABILITY = "Capability:"
"""Before the name of what the request needs and the model can not."""
MINIMUM_QUALITY = "MinimumQuality"
"""Why a variant is left out while others reach the tier's minimum."""


def barred(model: Model, ask: Ask, policy: Policy) -> str:
    """Return why `model` may not answer, whatever is estimated of it; empty: it may."""
    call, name = ask.call, model.name
    if call.model not in (AUTO, name):
        return PINNED
    if not ask.judging:  # whose model the policy names itself
        if not policy.models.permits(name):
            return POLICY
        if not ask.tier.models.permits(name):
            return TIER
    if ask.matched is not None and forbids(ask.matched.rule, name):
        return f"{RULE}{ask.matched.rule.name}"
    if call.needs and (lacking := model.lacks(call.needs, pinned=call.model != AUTO)):
        return f"{CAPABILITY}{lacking}"
    return EXCLUDED if name in ask.exclude else ""


def unwanted(estimate: Estimate, ask: Ask) -> str:
    """Return which bound of its caller a model's estimated answer breaks; empty: none."""
    if ask.max_cost is not None and estimate.reserve > ask.max_cost:
        return MAX_COST
    return MIN_QUALITY if estimate.quality < ask.min_quality else ""


def nothing_left(
    ask: Ask, fleet: Fleet, policy: Policy, whys: Sequence[str], models: Sequence[Estimate], *, limit: int
) -> Failure:
    """Return the error of a request that no variant may answer: by the last hurdle that any of them reached.

    `whys` holds a word for each variant of the fleet, `models` what was expected of each model; `limit` are
    the output tokens asked for, per choice. A request with the figures that are told has a model.
    """
    left = frozenset(whys) - {PINNED}
    whose = "any model" if ask.call.model == AUTO else f"model {ask.call.model!r}"
    if NO_KEY in left:
        return _no_key(ask.call.model)
    keys = [variant.key.model for variant in fleet.variants()]
    stopped = [
        (why, models[place])
        for place, model in enumerate(fleet.models)
        for why in {why for key, why in zip(keys, whys, strict=True) if key == model.name}
    ]
    if MIN_QUALITY in left:
        best = max(one.quality for why, one in stopped if why == MIN_QUALITY)
        return Failure(
            Fault.BAD_REQUEST,
            "QualityBelowLimit",
            f"{whose} is predicted to answer with a quality of at most {_at_most(best)}, below the"
            f" {ask.min_quality:g} of header {MIN_QUALITY_HEADER}; lower it",
            field=MIN_QUALITY_HEADER,
        )
    if MAX_COST in left and ask.max_cost is not None:
        return _too_dear(ask, [one for why, one in stopped if why == MAX_COST], ask.max_cost)
    if CONTEXT in left:
        return Failure(
            Fault.BAD_REQUEST,
            CONTEXT,
            f"about {ask.reading.input_tokens} input tokens and {limit} output tokens do not fit the context"
            f" of {whose}; shorten messages or max_tokens",
            field="messages",
        )
    if UNBOUNDED_IMAGE in left:
        return Failure(
            Fault.BAD_REQUEST,
            UNBOUNDED_IMAGE,
            f"{whose} does not say how many tokens an image has at most, which the budget of policy"
            f" {policy.key} needs; set imageTokens of the model",
            field="messages",
        )
    if EXCLUDED in left:
        return Failure(
            Fault.BAD_REQUEST,
            "ModelNotAllowed",
            f"header {EXCLUDE_HEADER} excludes every model that could answer; name fewer",
            field=EXCLUDE_HEADER,
        )
    if any(why.startswith(CAPABILITY) for why in left):
        return _not_capable(ask, fleet)
    return _not_allowed(ask, policy, left)


def _too_dear(ask: Ask, dear: Sequence[Estimate], max_cost: NanoUsd) -> Failure:
    """Tell the least that it has to be allowed to cost, where a better answer is wanted too of those."""
    good = [one for one in dear if one.quality >= ask.min_quality]
    cheapest = min(good or dear, key=lambda one: one.reserve)
    lower = "" if good else f", and lower {MIN_QUALITY_HEADER} to {_at_most(cheapest.quality)} there"
    return Failure(
        Fault.BAD_REQUEST,
        "CostAboveLimit",
        f"the request may cost {usd(cheapest.reserve):.9f} USD at model {cheapest.model!r}, above the"
        f" {usd(max_cost):.9f} USD of header {MAX_COST_HEADER}; raise it or lower max_tokens{lower}",
        field=MAX_COST_HEADER,
    )


def _at_most(quality: float) -> str:
    """Return a quality as text that, sent back as a bound, does not exceed it."""
    return f"{math.floor(quality * 1e6) / 1e6:.6f}"


def _no_key(model: str) -> Failure:
    whose = "every model that could answer" if model == AUTO else f"model {model!r}"
    return Failure(
        Fault.UNAVAILABLE,
        "ApiKeyMissing",
        f"{whose} needs an API key that is not there; the sidecar's log says which, and where to put it",
        retry_after=5.0,
    )


def _not_capable(ask: Ask, fleet: Fleet) -> Failure:
    """Say what is lacking, and which models have it."""
    pinned = ask.call.model != AUTO
    whose = f"model {ask.call.model!r}" if pinned else "every model that this request may use"
    said = []
    for need in sorted(ask.call.needs):
        able = [model.name for model in fleet.models if not model.lacks(frozenset({need}), pinned=False)]
        if len(able) < len(fleet.models):
            said.append(f"{need} ({', '.join(able) if able else 'none'})")
    return Failure(
        Fault.BAD_REQUEST,
        "NoCapableModel",
        f"{whose} lacks what the request needs; models of the fleet that declare it: {'; '.join(said)}",
        field="model" if pinned else None,
    )


def _not_allowed(ask: Ask, policy: Policy, left: frozenset[str]) -> Failure:
    """Name the last of rule, tier and policy that leaves nothing."""
    named = [f"rule {why.removeprefix(RULE)} of policy {policy.key}" for why in left if why.startswith(RULE)]
    if TIER in left and not named:
        named = [f"tier {ask.tier.name} of policy {policy.key}"]
    by = named[0] if named else f"policy {policy.key}"
    if ask.call.model != AUTO:
        return Failure(
            Fault.BAD_REQUEST,
            "ModelNotAllowed",
            f"{by} keeps this request from model {ask.call.model!r}; use {AUTO!r}",
            field="model",
        )
    return Failure(
        Fault.UNAVAILABLE,
        "NoModelAllowed",
        f"{by} leaves this request no model of the fleet; its condition ResolvedRefs says which models are"
        " not there",
        retry_after=5.0,
    )
