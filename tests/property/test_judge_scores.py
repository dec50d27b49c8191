"""No judge's answer breaks the sidecar or becomes a score that it did not give."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_sidecar.judge_prompt import ends_of, grading, score_in
from modelfleet_sidecar.spoken import Spoken

pytestmark = pytest.mark.property

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "delta", "content", "index"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(st.text())
def test_a_score_is_what_the_judge_wrote_and_else_there_is_none(text: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    written = text.strip(" \t\r\n")
    plain = written in {str(number) for number in range(11)} and len(text) <= 8
    assert score_in(body) == (int(written) / 10 if plain else None)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_answer_is_too_odd_to_be_read(body: bytes) -> None:
    score = score_in(body)
    assert score is None or 0.0 <= score <= 1.0
    spoken = Spoken(10)
    spoken.events(b"data: " + body + b"\n\n")
    assert len(spoken.text) <= 10


@given(st.text(max_size=50), st.text(max_size=50), st.integers(20, 40))
def test_texts_stay_data_whatever_is_in_them(question: str, answer: str, most: int) -> None:
    messages = grading("jury", ends_of(question, most), answer, cut=False)["messages"]
    assert isinstance(messages, list)
    case = json.loads(messages[1]["content"])
    assert case["answer"] == answer
    assert len(case["question"]) <= most
    assert case["question"] == question or len(question) > most
