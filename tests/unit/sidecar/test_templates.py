"""What a model's chat template adds to the prompt counts in what is reserved for it, and whether it fits."""

from __future__ import annotations

from dataclasses import replace

from modelfleet_core.catalog import TEMPLATE_TOKENS
from support.desks import BIG, SMALL, Desk
from support.sidecars import PRICING, policy_of


def desk_of(template_tokens: int, context_tokens: int | None = None) -> Desk:
    """Return a desk whose model `big` has such a template."""
    desk = Desk(policy_of(max_output_tokens=100), [SMALL, replace(BIG, context_tokens=context_tokens)])
    fleet = desk.lease.fleet
    assert fleet is not None
    small, big = fleet.models
    desk.lease.fleet = replace(fleet, models=(small, replace(big, template_tokens=template_tokens)))
    return desk


def test_what_a_template_is_declared_to_add_is_reserved_and_expected() -> None:
    usual, long = desk_of(TEMPLATE_TOKENS).prospect("hi").candidate, desk_of(3000).prospect("hi").candidate
    more = PRICING.cost(3000 - TEMPLATE_TOKENS, 0)
    assert long.reserve == (usual.reserve[0], usual.reserve[1] + more)
    assert long.cost[0] == usual.cost[0]
    assert round((long.cost[1] - usual.cost[1]) * 1e9) == more


def test_a_template_has_to_fit_the_context_with_what_is_asked() -> None:
    asked = desk_of(3000, context_tokens=3000).prospect("hi", max_tokens=100)
    assert asked.candidate.excluded_by == ("", "ContextLength")
    assert desk_of(3000, context_tokens=4000).prospect("hi", max_tokens=100).candidate.excluded_by == ("", "")
