"""What training and estimates see of a text."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.features import FEATURES, LEXICAL, feature_matrix, features

PLACES = [60, 73, 93, 117, 160, 165, 179, 186, 228, 280, 308, 351, 353, 369, 406, 411, 414, 454, 483]
"""Of the words of `TEXT` among the hashed ones."""
TEXT = "Compute 12 + 7 and explain why; then write `def f(x): return x`."


def test_a_matrix_holds_the_same_figures_as_each_text_alone() -> None:
    texts = [TEXT, "", "日本の首都は?", "a"]
    assert np.array_equal(feature_matrix(texts), np.stack([features(text) for text in texts]))


def test_no_text_at_all_gives_zeros() -> None:
    assert not features("").any()


@pytest.mark.parametrize("text", [" ", "\n\n", "a", "é", "\ud800", "\x00", "0", "((", "a" * 3])
def test_every_text_has_finite_figures_that_are_not_negative(text: str) -> None:
    x = features(text)
    assert x.shape == (FEATURES,)
    assert np.isfinite(x).all()
    assert x.min() >= 0.0


def test_hashed_words_do_not_tell_numbers_of_one_length_or_cases_apart() -> None:
    other = TEXT.replace("12", "34").replace("Compute", "cOMPUTE")
    assert np.array_equal(features(other)[LEXICAL:], features(TEXT)[LEXICAL:])


def test_words_and_their_order_tell_texts_apart() -> None:
    one, other = features("the dog bites the man"), features("the man bites the dog")
    assert not np.array_equal(one, other)
    assert not np.array_equal(features("apples"), features("oranges"))


def test_hashed_counts_have_one_length_however_long_the_text() -> None:
    short, long = features(TEXT), features(TEXT * 40)
    assert np.linalg.norm(short[LEXICAL:]) == pytest.approx(np.linalg.norm(long[LEXICAL:]))


def test_of_a_giant_text_start_and_end_are_looked_at_and_its_length() -> None:
    middle = "x" * 100_000
    one = features(TEXT * 70 + middle + TEXT * 40)
    other = features(TEXT * 70 + middle.replace("x", "y") + TEXT * 40)
    assert np.array_equal(one, other)
    assert not np.array_equal(one, features(TEXT * 70 + middle * 3 + TEXT * 40))
    assert not np.array_equal(one, features(TEXT * 70 + middle + "Prove it." * 300))


def test_the_longest_text_of_the_widest_characters_fits() -> None:
    assert np.isfinite(features("😀" * 10_000)).all()


def test_figures_are_the_same_on_every_machine() -> None:
    x = features(TEXT)
    hashed = np.flatnonzero(x[LEXICAL : LEXICAL + 512])
    assert hashed.tolist() == PLACES
