"""What a model's chat template adds to the prompt counts in what is reserved for it, and whether it fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.catalog import MAX_TEMPLATE_TOKENS, TEMPLATE_TOKENS
from modelfleet_sidecar.frame import Frame
from modelfleet_sidecar.prospect import Prospect, prospect
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates
from support.desks import BIG, SMALL, Desk
from support.sidecars import PRICING, policy_of

DECISION = Desk(policy_of()).decide("hi", model="big")


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


class Seen:
    """What chat templates turn out to add, at a desk whose requests are reserved by that."""

    def __init__(self, template_tokens: int = TEMPLATE_TOKENS, context_tokens: int | None = None) -> None:
        self.desk = desk_of(template_tokens, context_tokens)
        self.now, self.raised, self.telemetry = 0.0, 0, Telemetry()
        self.templates = Templates(
            lease=self.desk.lease, clock=lambda: self.now, telemetry=self.telemetry, raised=self._raise
        )

    def _raise(self) -> None:
        self.raised += 1

    def prospect(self, text: str, **fields: object) -> Prospect:
        fleet, policy = self.desk.lease.fleet, self.desk.lease.policy
        assert fleet is not None
        assert policy is not None
        frame = Frame(fleet, policy, self.templates.of(fleet))
        return prospect(self.desk.ask(text, **fields), fleet, policy, self.desk.estimator, frame=frame)  # type: ignore[arg-type]

    def bound(self, text: str) -> int:
        """Return the tokens of a prompt that its reserve is for."""
        return self.prospect(text).input_bound[1]

    def count(self, text: str, input_tokens: int) -> None:
        """Let `big` answer a request, whose prompt it counts so."""
        decision = self.desk.decide(text, model="big")
        seen = self.prospect(text)
        template = seen.frame.templates[1]
        told = replace(decision, prompt_bound=seen.input_bound[1] - template, template_tokens=template)
        self.templates.counted(told, input_tokens)

    def counted_above(self) -> float:
        name = "modelfleet_sidecar_prompts_above_bound_total"
        return self.telemetry.registry.get_sample_value(name, {"model": "big"}) or 0.0


def test_a_prompt_counted_above_its_bound_raises_that_of_the_next_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    before = seen.bound("hi")
    seen.count("hi", before)
    assert (seen.bound("hi"), seen.raised, seen.counted_above()) == (before, 0, 0.0)
    seen.count("hi", 3000)
    assert seen.bound("hi") >= 3000
    assert (seen.raised, seen.counted_above()) == (1, 1.0)
    (said,) = caplog.messages
    assert "model big/gpu counted 3000 tokens for a prompt that was reserved for 130 at most" in said
    assert f"set templateTokens of the model to {seen.bound('hi') - before + TEMPLATE_TOKENS}," in said


def test_what_was_seen_once_stays_and_other_models_go_by_their_own() -> None:
    seen = Seen()
    small = seen.prospect("hi").candidate.reserve[0]
    seen.count("hi", 3000)
    raised = seen.bound("hi")
    for fewer in (5, 2000, 3000):
        seen.count("hi", fewer)
    assert (seen.bound("hi"), seen.raised) == (raised, 1)
    assert seen.prospect("hi").candidate.reserve[0] == small


def test_what_is_only_feared_of_a_template_turns_away_no_request_that_fits() -> None:
    seen = Seen(context_tokens=3200)
    seen.count("hi", 3000)
    assert seen.prospect("hi", max_tokens=100).candidate.excluded_by == ("", "")
    assert seen.prospect("hi").output_limit == (100, 100)


def test_a_dense_text_is_not_taken_for_a_long_template() -> None:
    seen = Seen()
    dense = "0" * 40_000
    seen.count(dense, seen.bound(dense) + 100)
    assert seen.bound("hi") < 1000


IMAGE = [
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://example.com/x.png"}}]}
]


@pytest.mark.parametrize(
    ("image_tokens", "more", "raised"),
    [
        (None, {"plugins": [{"id": "web"}]}, 0),
        (None, {"messages": IMAGE}, 0),
        (100, {"messages": IMAGE}, 1),
    ],
    ids=["texts that the server adds", "images of no known size", "images above their size"],
)
def test_a_prompt_that_had_no_bound_tells_nothing_of_the_template(
    image_tokens: int | None, more: dict[str, object], raised: int
) -> None:
    seen = Seen()
    fleet, policy = seen.desk.lease.fleet, seen.desk.lease.policy
    assert fleet is not None
    assert policy is not None
    small, big = fleet.models
    able = replace(big, capabilities=frozenset({"chat", "vision"}), image_tokens=image_tokens)
    seen.desk.lease.fleet, seen.desk.lease.policy = (
        replace(fleet, models=(small, able)),
        replace(policy, budget=None),
    )
    seen.templates.counted(seen.desk.decide("hi", model="big", **more), 50_000)
    assert (seen.raised, seen.counted_above()) == (raised, raised)


def test_a_model_that_counts_whatever_it_likes_is_followed_within_bounds_and_named_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    for tokens in range(1000, 60_000):
        seen.templates.counted(replace(DECISION, prompt_bound=0, template_tokens=96), tokens)
    assert seen.raised < 30
    seen.templates.counted(replace(DECISION, prompt_bound=0, template_tokens=96), 10**12)
    fleet = seen.desk.lease.fleet
    assert fleet is not None
    assert seen.templates.of(fleet)[1] == MAX_TEMPLATE_TOKENS
    assert len(caplog.messages) == 1
    seen.now = 60.0
    seen.templates.counted(replace(DECISION, prompt_bound=0, template_tokens=96), 10**12)
    assert len(caplog.messages) == 2
