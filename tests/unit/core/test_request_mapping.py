"""What a fleet says of the requests that a model takes: capabilities, images, and how they are changed."""

from __future__ import annotations

import pytest
from modelfleet_core.catalog import Model
from modelfleet_core.errors import SpecError
from modelfleet_core.manifests import parse_fleet
from support.manifests import fleet_manifest, full_fleet_manifest


def model_of(**fields: object) -> Model:
    manifest = fleet_manifest()
    manifest["spec"]["models"][1] |= fields
    return parse_fleet(manifest).models[1]


def test_a_model_declares_what_it_can_do_and_how_requests_are_changed_for_it() -> None:
    model = parse_fleet(full_fleet_manifest()).models[1]
    assert model.capabilities == {"chat", "tools", "vision"}
    assert model.image_tokens == 1600
    assert model.template_tokens == 900
    assert model.request.system_prompt == "Answer in plain words."
    assert model.request.rename == {"max_tokens": "max_completion_tokens", "top_k": "topK"}
    assert model.request.remove == {"logit_bias", "user"}
    assert model.request.defaults == {"temperature": 0.6, "chat_template_kwargs": {"thinking": False}}


def test_a_model_that_declares_nothing_has_what_chat_models_commonly_have() -> None:
    model = model_of()
    assert model.capabilities is None
    assert model.image_tokens is None
    assert model.template_tokens == 96
    assert not model.lacks(frozenset({"chat", "tools", "json", "completions"}), pinned=False)
    assert model.lacks(frozenset({"chat", "vision"}), pinned=False) == "vision"
    assert not model.lacks(frozenset({"embeddings"}), pinned=True)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"capabilities": []}, "capabilities"),
        ({"capabilities": ["flying"]}, "capabilities[0]"),
        ({"imageTokens": 0}, "imageTokens"),
        ({"templateTokens": 95}, "templateTokens"),
        ({"templateTokens": 1_000_001}, "templateTokens"),
        ({"request": {"systemPrompt": " "}}, "request.systemPrompt"),
        ({"request": {"systemPrompt": "x" * 5000}}, "request.systemPrompt"),
        ({"request": {"rename": {"model": "name"}}}, "request.rename.model"),
        ({"request": {"rename": {"x": "messages"}}}, "request.rename.x"),
        ({"request": {"rename": {"max_tokens": "limit"}}}, "request.rename.max_tokens"),
        ({"request": {"rename": {"top_k": "max_tokens"}}}, "request.rename.top_k"),
        ({"request": {"rename": {"a": "b", "b": "c"}}}, "request.rename.a"),
        ({"request": {"rename": {"a b": "c"}}}, "request.rename"),
        ({"request": {"remove": ["max_tokens"]}}, "request.remove[0]"),
        ({"request": {"remove": ["top_k", "stream"]}}, "request.remove[1]"),
        ({"request": {"defaults": {"max_tokens": 5}}}, "request.defaults.max_tokens"),
        ({"request": {"defaults": {"n": 4}}}, "request.defaults.n"),
        ({"request": {"defaults": {"instructions": "x"}}}, "request.defaults.instructions"),
    ],
)
def test_what_would_change_the_question_or_lift_its_bound_of_cost_is_refused(
    fields: dict[str, object], path: str
) -> None:
    with pytest.raises(SpecError) as refused:
        model_of(**fields)
    assert refused.value.path == f"spec.models[1].{path}"
