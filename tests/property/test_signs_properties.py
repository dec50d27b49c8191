"""Texts of ASCII, which are parted another way, show the signs that they show among other letters."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.estimation.lexicon import PHRASES, WORDS
from modelfleet_core.estimation.signs import signs

KNOWN = [word for listed in WORDS.values() for word in listed.split() if word.isascii()]
KNOWN += [phrase for listed in PHRASES.values() for phrase in listed]
text = st.lists(
    st.sampled_from(KNOWN) | st.text(st.characters(max_codepoint=127), max_size=4), max_size=20
).flatmap(lambda parts: st.sampled_from((" ", "", "\n", "\x1c", "_")).map(lambda by: by.join(parts)))


@settings(max_examples=300, deadline=None)
@given(text)
def test_a_letter_beyond_ascii_adds_one_word_and_no_other_sign(text: str) -> None:
    plain, other = signs(text), signs(text + " \u00e9\u00e9")
    assert other.words == plain.words + 1
    assert (other.kinds, other.numbers, other.code) == (plain.kinds, plain.numbers, plain.code)
