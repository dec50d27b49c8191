"""Few figures say what kind of request a text is."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.embedding import EMBEDDING, TYPICAL, doubted, embed, embed_one
from modelfleet_core.estimation.features import feature_matrix, features


def test_an_embedding_starts_with_1_and_the_rest_sums_to_1() -> None:
    texts = ["", "a", "x" * 1_000_000, "\x00\ud800", "12 + 12 = 24", "请", *TYPICAL]
    found = embed(feature_matrix(texts))
    assert found.shape == (len(texts), EMBEDDING)
    assert EMBEDDING <= 24, "what travels between sidecars and leader is bounded"
    assert (found[:, 0] == 1.0).all()
    assert found[:, 1:].sum(axis=1) == pytest.approx(1.0)
    assert (found >= 0.0).all()


def test_one_text_is_embedded_as_among_others() -> None:
    many = embed(feature_matrix(TYPICAL[:3]))
    assert many[1] == pytest.approx(embed(features(TYPICAL[1])))


def test_each_typical_request_is_most_like_itself() -> None:
    assert embed(feature_matrix(TYPICAL))[:, 1:].argmax(axis=1).tolist() == list(range(len(TYPICAL)))


def test_texts_of_a_kind_are_nearer_than_others() -> None:
    code, more_code, chat = embed(
        feature_matrix(
            [
                'def area(r: float) -> float:\n    """Area of a circle.\n    >>> area(1)\n    3.14"""\n',
                'def is_even(n: int) -> bool:\n    """Whether n is even.\n    >>> is_even(3)\n    False"""\n',
                "hello, what should i cook tonight? i have rice and eggs",
            ]
        )
    )
    assert np.abs(code - more_code).sum() < 0.5 * np.abs(code - chat).sum()


def test_an_embedding_is_the_shorter_the_surer_the_base_is_and_never_nothing() -> None:
    one = embed(features("who wrote the novel?"))
    lengths = [np.linalg.norm(doubted(one, confidence)) for confidence in (0.0, 0.5, 0.9, 1.0)]
    assert lengths[0] > lengths[1] > lengths[2] >= lengths[3] > 0.0
    both = doubted(np.array([one, one]), np.array([0.0, 0.5]))
    assert both == pytest.approx(np.array([doubted(one, 0.0), doubted(one, 0.5)]))
    assert one[0] == 1.0, "what was given stays as it was"


@pytest.mark.parametrize("confidence", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("text", ["", "why?", "x = 3; " * 300, "Почему небо синее?"])
def test_one_request_is_embedded_as_by_its_parts(text: str, confidence: float) -> None:
    x = features(text)
    assert embed_one(x, confidence) == pytest.approx(doubted(embed(x), confidence), rel=1e-12)
