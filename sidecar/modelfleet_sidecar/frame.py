"""Stage assign, first half: what estimating a request takes of the fleet and the policy alone, made once.

In: a fleet and a policy. Out: a `Frame`, for as long as both are in force. Next: `prospect` goes by it for
every request: what is the same for all of them would take most of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelfleet_core.catalog import TEMPLATE_TOKENS, ExternalPlacement, Fleet, Model
from modelfleet_core.leasing.accounts import Unit, accounts_of
from modelfleet_core.policy import Policy
from modelfleet_core.values import AccountName, NanoUsd

from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.eligible import barred

MOST = 256
"""Combinations of tier, rule and needs, or tenants, that are remembered."""

_Charged = tuple[tuple[tuple[AccountName, bool], ...], ...]
"""By variant the accounts that are charged, each with whether it counts money."""


class Frame:
    """One fleet under one policy: m variants, in the order of the fleet. Not shared by threads."""

    def __init__(self, fleet: Fleet, policy: Policy, templates: Sequence[int] = ()) -> None:
        """`templates`: tokens that each model's chat template is taken to add; none: what is declared."""
        self.fleet = fleet
        self.policy = policy
        self.variants = fleet.variants()
        self.keys = tuple([variant.key for variant in self.variants])
        self.places = [place for place, model in enumerate(fleet.models) for _ in model.variants]
        """(m,) of each variant's model in the fleet."""
        self.limited = any(
            isinstance(placement, ExternalPlacement)
            and (placement.requests_per_minute is not None or placement.tokens_per_minute is not None)
            for placement in [variant.placement for variant in self.variants]
        )
        """Whether any variant has limits by the minute."""
        self.templates = tuple(templates) or tuple([model.template_tokens for model in fleet.models])
        self.adds = max(self.templates) > TEMPLATE_TOKENS or any(
            model.request.system_prompt or model.request.defaults for model in fleet.models
        )
        """Whether any model has more of a request in its prompt than the caller sent."""
        contexts = [model.context_tokens for model in fleet.models if model.context_tokens is not None]
        self.least_context = min(contexts, default=None)
        self._accounts = accounts_of(policy)
        self._charged: dict[tuple[str | None, bool], _Charged] = {}
        self._tiers = {tier.name: tier for tier in policy.tiers}
        self._rules = {rule.name: rule for rule in policy.rules}
        self._barred: dict[tuple[str, str, frozenset[str]], tuple[str, ...]] = {}
        """Of requests that name no model and wish none away, by tier, rule and needs."""

    def of(self, fleet: Fleet, policy: Policy) -> bool:
        return self.fleet is fleet and self.policy is policy

    def model(self, j: int) -> Model:
        """Return the model of variant `j`."""
        return self.fleet.models[self.places[j]]

    def barred(self, ask: Ask) -> tuple[str, ...]:
        """Return `eligible.barred` of each model."""
        matched = ask.matched
        if (
            ask.call.model != AUTO
            or ask.exclude
            or ask.judging
            or self._tiers.get(ask.tier.name) is not ask.tier
            or (matched is not None and self._rules.get(matched.rule.name) is not matched.rule)
        ):
            return self._look(ask)
        key = (ask.tier.name, matched.rule.name if matched is not None else "", ask.call.needs)
        known = self._barred.get(key)
        if known is None:
            if len(self._barred) >= MOST:
                self._barred.clear()
            known = self._barred[key] = self._look(ask)
        return known

    def _look(self, ask: Ask) -> tuple[str, ...]:
        return tuple([barred(model, ask, self.policy) for model in self.fleet.models])

    def charges(self, ask: Ask, reserve: Sequence[NanoUsd]) -> tuple[Mapping[AccountName, int], ...]:
        """Return what each variant charges which accounts where it reserves so much (m,); empty: none."""
        if not self._accounts:
            return ()
        charged = self._charged.get((ask.tenant, ask.judging))
        if charged is None:
            if len(self._charged) >= MOST:
                self._charged.clear()
            charged = self._charged[ask.tenant, ask.judging] = tuple(
                [
                    tuple(
                        [
                            (account.name, account.unit is Unit.MONEY)
                            for account in self._accounts
                            if account.covers(variant.model, ask.tenant, judging=ask.judging)
                        ]
                    )
                    for variant in self.keys
                ]
            )
        return tuple(
            [
                {name: amount if money else 1 for name, money in names}
                for names, amount in zip(charged, reserve, strict=True)
            ]
        )
