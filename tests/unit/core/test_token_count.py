"""Tokens of a text are told apart by letters, digits, signs and scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.estimation.tokens import tokens_of


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("The quick brown fox jumps over the lazy dog.", 8, 12),
        ("3.14159265358979", 8, 16),
        ("if (a[i] != b[j]) { return -1; }", 12, 24),
        ("\u4eba\u5de5\u667a\u80fd\u6b63\u5728\u6539\u53d8\u4e16\u754c", 6, 12),
        ("\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", 3, 8),
    ],
    ids=["nothing", "prose", "digits", "code", "Chinese", "Russian"],
)
def test_a_text_has_about_as_many_tokens_as_tokenizers_make_of_it(text: str, least: int, most: int) -> None:
    assert least <= tokens_of(text) <= most


@given(st.text(st.characters(), max_size=200))
def test_no_text_has_more_tokens_than_bytes(text: str) -> None:
    assert 0 <= tokens_of(text) <= len(text.encode("utf-8", "surrogatepass"))
