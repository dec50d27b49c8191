"""Stage batch, the edge: a parsed call with its headers becomes an `Ask`: tier, rule, task, tenant, deadline.

In: `Call`s and headers from the API modules. Out: `Ask`, or one `Failure`. Next: `batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.profile import read
from modelfleet_core.estimation.urgency import urgency
from modelfleet_core.policy import Policy, Tier
from modelfleet_core.rules import Asking, Rules
from modelfleet_core.values import TaskName

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.calls import Call, with_params
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.estimates import LiveEstimator
from modelfleet_sidecar.failures import Failure, Fault, late
from modelfleet_sidecar.passing import passed
from modelfleet_sidecar.prospect import known_model
from modelfleet_sidecar.refusals import no_lease
from modelfleet_sidecar.wishes import TIER_HEADER, bad_header, wishes


class Asker:
    """Reads calls by the policy in force."""

    def __init__(self, *, lease: Lease, estimator: LiveEstimator, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._estimator = estimator
        self._clock = clock
        self._rules: tuple[Policy | None, Rules] = (None, Rules(()))
        """Of the policy that they are of."""

    def ask(
        self, call: Call, headers: Mapping[str, str], *, remaining: float | None, routed: bool = False
    ) -> Ask:
        """Return what is asked, with its rule, tier, task and deadline. Raises Failure when it can never be
        served.

        `headers` have lower-case names; `remaining` is the caller's deadline in seconds from now.
        """
        fleet, policy = self._lease.fleet, self._lease.policy
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        wished = wishes(headers)
        alias = call.model if call.model in policy.aliases else ""
        if alias:
            call = replace(call, model=policy.aliases[alias])
        known_model(call.model, fleet, alias)
        reading = read(call.texts)
        matched = None
        if policy.rules:
            asking = Asking(reading.text, reading.script, reading.input_tokens, headers)
            matched = self._rules_of(policy).first(asking)
        if matched is not None:
            call = with_params(call, matched.rule.params)
        if call.unbounded and policy.budget is not None:
            raise Failure(
                Fault.BAD_REQUEST,
                "UnboundedCost",
                f"{call.unbounded} leaves the cost of the request without an upper bound, which the budget of"
                f" policy {policy.key} needs; leave it out",
                field=call.unbounded,
            )
        now = self._clock()
        allowed = policy.limits.max_request
        left = allowed if remaining is None else min(remaining, allowed)
        if left <= 0:
            raise late(0.0)
        ruled = matched.rule.task if matched is not None else None
        return Ask(
            call=call,
            reading=reading,
            tier=_tier(policy, wished.tier, headers),
            task=TaskName(wished.task) if wished.task and self._tells_apart(wished.task, fleet) else ruled,
            arrived=now,
            deadline=now + left,
            tenant=policy.tenant_of(headers),
            matched=matched,
            urgency=urgency(
                stream=call.stream,
                flex=call.fields.get("service_tier") == "flex",
                remaining=remaining,
                words=reading.signs.words,
            ),
            group=policy.group_of(headers),
            features=self._estimator.features(reading.text, policy),
            routed=routed,
            max_cost=wished.max_cost,
            min_quality=wished.min_quality,
            exclude=wished.exclude,
            session=wished.session,
            caller=policy.caller_of(headers),
            explained=wished.explained,
            passed=passed(headers),
        )

    def _tells_apart(self, task: str, fleet: Fleet) -> bool:
        """Return whether fleet or estimator know a task: others change no estimate, and callers could make up
        any number of them."""
        return task in self._estimator.tasks or any(task in model.quality.by_task for model in fleet.models)

    def _rules_of(self, policy: Policy) -> Rules:
        """Return the rules of the policy in force, compiled when it came."""
        of, rules = self._rules
        if of is not policy:
            rules = Rules(policy.rules)
            self._rules = (policy, rules)
        return rules


def _tier(policy: Policy, named: str, headers: Mapping[str, str]) -> Tier:
    """Return the tier of a request whose caller named one (empty: none).

    Naming a tier buys none that the policy gives to others: it holds where the tier's own match does.
    """
    if not named:
        return policy.tier_of(headers)
    tier = next((tier for tier in policy.tiers if tier.name == named), None)
    if tier is None:
        known = ", ".join(tier.name for tier in policy.tiers)
        raise bad_header(TIER_HEADER, f"policy {policy.key} has no tier {named!a}; use one of: {known}")
    return tier if tier.matches(headers) else policy.tier_of(headers)
