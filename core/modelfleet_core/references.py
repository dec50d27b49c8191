"""Stage spec: the models that a policy names and its fleet has not.

In: both, as they are in force. Out: sentences on each name, with what comes of it. Next: the operator's
condition `ResolvedRefs`, and the log of a sidecar without an operator.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelfleet_core.catalog import Fleet
from modelfleet_core.leasing.accounts import accounts_of
from modelfleet_core.policy import ROUTED, ModelChoice, Policy
from modelfleet_core.values import ModelName


def named_in_vain(policy: Policy, fleet: Fleet) -> list[str]:
    """Return what is to be said of such names, each as what the fleet `has` not; empty: there are none."""
    known = frozenset(model.name for model in fleet.models)
    said = [
        f"has no model {', '.join(sorted(names - known)[:8])}, which {where}"
        for where, names in _named(policy)
        if names - known
    ]
    said += [
        f"has none of the models that rule {rule.name} allows, so that its requests are refused"
        for rule in policy.rules
        if rule.allow is not None and not (rule.allow - rule.deny) & known
    ]
    said += [
        f"has none of the models that {whose} allows, so that its requests are refused"
        for whose, choice in _choices(policy)
        if not any(map(choice.permits, known))
    ]
    return said


def _named(policy: Policy) -> Iterator[tuple[str, frozenset[ModelName]]]:
    """Return where the policy names models, with what comes of it where one is unknown, and which."""
    accounts = frozenset(model for account in accounts_of(policy) for model in account.models or ())
    yield "shares or quotas name: these limit nothing for it", accounts
    for rule in policy.rules:
        named = (rule.allow or frozenset()) | rule.deny | rule.prefer
        yield f"rule {rule.name} names: it does nothing there", named
    for whose, choice in _choices(policy):
        yield f"models of {whose} name: it does nothing there", (choice.allow or frozenset()) | choice.deny
    aliased = frozenset(ModelName(target) for target in policy.aliases.values() if target != ROUTED)
    yield "aliases stand for: requests for these are refused", aliased
    if policy.default_model is not None:
        yield "defaultModel names: estimates decide instead", frozenset([policy.default_model])
    if policy.judge is not None and policy.judge.model is not None:
        yield "judge names: nothing is scored", frozenset([policy.judge.model])


def _choices(policy: Policy) -> Iterator[tuple[str, ModelChoice]]:
    """Return whose requests may use which models only."""
    yield "the policy", policy.models
    for tier in policy.tiers:
        yield f"tier {tier.name}", tier.models
