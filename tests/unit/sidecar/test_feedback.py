"""What applications say of answers: every form of it becomes one score, or one clear error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.feedback import LABELS, MAX_COMMENT, Feedback, Source, feedback, parse_feedback


def parsed(**fields: object) -> tuple[float, Source]:
    said = parse_feedback(json.dumps({"decision_id": "d-1", **fields}).encode())
    return said.score, said.source


def refused_field(raw: bytes) -> str | None:
    with pytest.raises(Failure) as caught:
        parse_feedback(raw)
    assert caught.value.fault is Fault.BAD_REQUEST
    return caught.value.field


@pytest.mark.parametrize(("rating", "score"), [(1, 0.0), (2, 0.25), (3, 0.5), (4, 0.75), (5, 1.0)])
def test_ratings_are_mapped_linearly(rating: int, score: float) -> None:
    assert parsed(rating=rating) == (score, Source.RATING)


def test_labels_are_understood_in_any_case() -> None:
    assert parsed(label=" Good ") == (1.0, Source.LABEL)
    assert parsed(label="thumbs_down") == (0.0, Source.LABEL)
    assert set(LABELS.values()) == {0.0, 0.5, 1.0}


def test_a_score_counts_as_it_is() -> None:
    assert parsed(score=0.3) == (0.3, Source.SCORE)
    assert parsed(score=1) == (1.0, Source.SCORE)


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"score": 1.01}, "score"),
        ({"score": float("nan")}, "score"),
        ({"score": float("inf")}, "score"),
        ({"score": "1"}, "score"),
        ({"score": True}, "score"),
        ({"rating": 0}, "rating"),
        ({"rating": 6}, "rating"),
        ({"rating": 4.5}, "rating"),
        ({"rating": 10**400}, "rating"),
        ({"label": "great stuff"}, "label"),
        ({"label": 1}, "label"),
        ({}, "score"),
        ({"score": 1, "rating": 5}, "score"),
        ({"score": 1, "stars": 5}, "stars"),
        ({"score": 1, "comment": ["x"]}, "comment"),
        ({"score": 1, "comment": "x" * (MAX_COMMENT + 1)}, "comment"),
        ({"score": 1, "decision_id": ""}, "decision_id"),
        ({"score": 1, "decision_id": "x" * 201}, "decision_id"),
        ({"score": 1, "decision_id": 7}, "decision_id"),
    ],
)
def test_what_can_not_be_counted_is_refused_by_its_field(fields: dict[str, object], at_fault: str) -> None:
    assert refused_field(json.dumps({"decision_id": "d-1", **fields}).encode()) == at_fault


@pytest.mark.parametrize("raw", [b"", b"[]", b"1", b"\xff{}", b"[" * 100_000, b'{"score": 1'])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    assert refused_field(raw) is None


def test_a_message_without_a_verdict_is_refused() -> None:
    with pytest.raises(Failure, match="send exactly one"):
        feedback("d-1", None, None, "")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["decision_id", "score", "rating", "label", "comment"]) | st.text(max_size=8)


@given(st.binary(max_size=200) | st.dictionaries(NAMES, JSON_VALUES, max_size=5).map(json.dumps))
def test_any_body_becomes_a_bounded_score_or_a_bad_request(body: bytes | str) -> None:
    said, failure = outcome(body.encode() if isinstance(body, str) else body)
    if said is None:
        assert failure is not None
        assert failure.fault is Fault.BAD_REQUEST
        assert len(failure.message) < 1_000
    else:
        assert 0.0 <= said.score <= 1.0
        assert len(said.comment) <= MAX_COMMENT


def outcome(body: bytes) -> tuple[Feedback | None, Failure | None]:
    try:
        return parse_feedback(body), None
    except Failure as failure:
        return None, failure
