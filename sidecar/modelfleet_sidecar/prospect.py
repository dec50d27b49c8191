"""Stage assign, first half: one request as it arrives, and what each variant of the fleet would make of it.

In: an `Ask`, the fleet and the policy, an estimator. Out: a `Prospect`, or the `Failure` of a request that
can never be served. Next: `batch` lets it wait, `assign` places it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.catalog import Fleet, Model, Variant
from modelfleet_core.demand import ModelOffer, cells
from modelfleet_core.estimation.estimate import Estimate
from modelfleet_core.estimation.profile import RequestProfile, profile_of
from modelfleet_core.leasing.accounts import accounts_of, charges
from modelfleet_core.leasing.rates import rate_uses
from modelfleet_core.policy import Policy
from modelfleet_core.rules import forbids
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, TaskName, VariantKey

from modelfleet_sidecar.chat import AUTO
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.failures import Failure, Fault

NO_KEY = "NoApiKey"
"""Why a variant is left out whose API key is not there."""
RULE = "rule:"
"""Before the name of the rule that keeps its requests from a variant."""


class Estimator(Protocol):
    """What routing needs of an estimator: estimates, and to be told of requests and whole answers."""

    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]: ...
    def saw(self, profile: RequestProfile) -> None: ...
    def answered(self, task: TaskName, output_tokens: int) -> None: ...
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


def no_key_lacks(_variant: Variant) -> bool:
    """Take every variant as usable."""
    return False


def prospect(
    ask: Ask,
    fleet: Fleet,
    policy: Policy,
    estimator: Estimator,
    lacks_key: Callable[[Variant], bool] = no_key_lacks,
) -> Prospect:
    """Profile a request and estimate every variant. Raises Failure when none could ever serve it.

    What `lacks_key` is left out, unless the caller sends the request itself, with a key of its own.
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
    seen = replace(seen, input_tokens_bound=seen.input_tokens_bound + call.hidden_tokens)
    accounts = accounts_of(policy)
    rule = ask.matched.rule if ask.matched is not None else None
    forbidden = f"{RULE}{rule.name}" if rule is not None else ""
    rates: list[Mapping[EndpointUrl, int]] = []
    rows: list[tuple[VariantKey, float, float, float, NanoUsd, int, str]] = []
    for model, estimate in zip(fleet.models, estimator.estimate(seen, fleet), strict=True):
        room = _output_room(model, seen, limit, call.asked_output_tokens is not None)
        why = "" if room else "ContextLength"
        if call.model not in (AUTO, model.name):
            why = "Pinned"
        elif forbids(rule, model.name):
            why = forbidden
        for variant in model.variants:
            unkeyed = NO_KEY if not why and not ask.routed and lacks_key(variant) else ""
            seconds = variant.latency.service_time(estimate.output_tokens)
            rates.append(rate_uses(variant, seen.input_tokens_bound + room * call.choices))
            rows.append(
                (
                    variant.key,
                    estimate.quality,
                    estimate.cost,
                    seconds,
                    estimate.reserve,
                    room,
                    why or unkeyed,
                )
            )
    if all(row[6] for row in rows):
        if any(row[6] == NO_KEY for row in rows):
            raise _no_key(call.model)
        if rule is not None and all(row[6] in ("Pinned", forbidden) for row in rows):
            raise _no_model_allowed(call.model, rule.name, policy)
        whose = "any model" if call.model == AUTO else f"model {call.model!r}"
        raise Failure(
            Fault.BAD_REQUEST,
            "ContextLength",
            f"about {seen.input_tokens} input tokens and {limit} output tokens do not fit the context of"
            f" {whose}; shorten messages or max_tokens",
            field="messages",
        )
    variants, quality, cost, service_time, reserve, output_limit, excluded_by = zip(*rows, strict=True)
    candidate = Candidate(
        variants=variants,
        tier=ask.tier.name,
        weight=ask.tier.weight,
        shed_penalty=ask.tier.weight * policy.shed_penalty,
        arrived=ask.arrived,
        deadline=ask.deadline,
        longest=policy.limits.max_request,
        quality=quality,
        cost=cost,
        service_time=service_time,
        reserve=reserve,
        excluded_by=excluded_by,
        routed=ask.routed,
        charges=tuple(
            charges(accounts, variant.model, ask.tenant, amount)
            for variant, amount in zip(variants, reserve, strict=True)
        )
        if accounts
        else (),
        rates=tuple(rates) if any(rates) else (),
        lean=tuple(rule.bonus if variant.model in rule.prefer else 0.0 for variant in variants)
        if rule is not None and rule.prefer
        else (),
        avoided=ask.avoided,
    )
    return Prospect(ask, fleet, policy, seen, candidate, output_limit)


def _no_key(model: str) -> Failure:
    whose = "every model that could answer" if model == AUTO else f"model {model!r}"
    return Failure(
        Fault.UNAVAILABLE,
        "ApiKeyMissing",
        f"{whose} needs an API key that this pod does not have; the sidecar's log names its Secret",
        retry_after=5.0,
    )


def _no_model_allowed(model: str, rule: str, policy: Policy) -> Failure:
    if model != AUTO:
        return Failure(
            Fault.BAD_REQUEST,
            "ModelNotAllowed",
            f"rule {rule} of policy {policy.key} keeps this request from model {model!r}; use {AUTO!r}",
            field="model",
        )
    return Failure(
        Fault.UNAVAILABLE,
        "NoModelAllowed",
        f"rule {rule} of policy {policy.key} leaves this request no model of the fleet; its condition"
        " ResolvedRefs says which models are not there",
        retry_after=5.0,
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
