"""What a text is about, from plain signs, with the signs that decided and nothing of the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.estimation.lexicon import PHRASES, WORDS
from modelfleet_core.estimation.signs import FIRST, LAST, excerpt, signs
from modelfleet_core.estimation.subject import Style, Subject, subject
from modelfleet_core.estimation.urgency import Urgency, urgency


def of(text: str) -> Subject:
    return subject(signs(text))


@pytest.mark.parametrize(
    ("text", "script", "language"),
    [
        ("What is the capital of France and how big is it?", "Latin", "en"),
        ("Wie wird das Wetter und was ist für die Reise nicht zu vergessen?", "Latin", "de"),
        ("Quelle est la capitale de la France et que faire dans une ville?", "Latin", "fr"),
        ("¿Cuál es la capital de España y qué no se puede perder en una visita?", "Latin", "es"),
        ("Qual è la capitale dell'Italia e che cosa non si deve perdere?", "Latin", "it"),
        ("Qual é a capital do Brasil e como se vai de uma cidade para outra?", "Latin", "pt"),
        ("Wat is de hoofdstad van het land en hoe kom ik er met de trein?", "Latin", "nl"),
        ("Türkiye'nin başkenti ne ve bir günde ne kadar gezilir, nasıl gidilir?", "Latin", "tr"),
        ("Какой город столица и что в нём есть, как туда попасть из Москвы?", "Cyrillic", "ru"),
        ("ما هي عاصمة مصر و كيف أذهب إلى المتحف من الفندق", "Arabic", "ar"),
        ("पानी का सूत्र क्या है और यह क्यों महत्वपूर्ण है?", "Devanagari", "hi"),
        ("请用一句话解释什么是量子纠缠", "Han", "zh"),
        ("東京の天気はどうですか", "Hiragana", "ja"),
        ("東京都庁舎展望室営業時間確認方法を教えて", "Han", "ja"),
        ("서울의 날씨는 어때요?", "Hangul", "ko"),
        ("วันนี้อากาศเป็นอย่างไร", "Thai", "th"),
        ("12 + 3", "", ""),
        ("Zxqv blorp", "Latin", ""),
        ("Apa yang dimaksud dengan itu dan bagaimana cara untuk ke sana?", "Latin", "id"),
        ("Co to jest i jak się to robi, czy oraz dla kogo?", "Latin", "pl"),
        ("Những người này có gì và không có gì trong thành phố của tôi?", "Latin", "vi"),
        ("Що це таке і як це працює для людей, які не знають?", "Cyrillic", "uk"),
        ("این چه است و برای چه به آن می گویند", "Arabic", "fa"),
        ("یہ کیا ہے اور پاکستان میں کس نے کہا", "Arabic", "ur"),
    ],
)
def test_script_and_language_are_told_where_the_words_are_plain(
    text: str, script: str, language: str
) -> None:
    assert (of(text).script, of(text).language) == (script, language)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Can the landlord end the lease, and what does the contract law say?", "law"),
        ("The patient has chronic pain and a fever: which diagnosis is likely?", "medicine"),
        ("What do dividends and inflation do to a portfolio of bonds?", "finance"),
        ("How does an enzyme catalyse a reaction in a cell?", "science"),
        ("Compute the integral of x^2 + 3 and the derivative.", "maths"),
        ("Why does `def f(x): return x` fail in python?", "code"),
        ("What should I cook tonight?", "general"),
    ],
)
def test_a_domain_is_told_where_at_least_two_signs_speak_for_it(text: str, domain: str) -> None:
    assert of(text).domain == domain


def test_every_word_and_phrase_of_the_lists_can_be_found() -> None:
    for kind, listed in WORDS.items():
        missed = [word for word in listed.split() if not signs(f"{word} {word}").of(kind)]
        assert missed == [], kind
    for kind, phrases in PHRASES.items():
        missed = [phrase for phrase in phrases if not signs(f"{phrase} x").of(kind)]
        assert missed == [], kind


def test_the_style_of_the_answer_is_told() -> None:
    assert of("List three cities as a JSON array").style is Style.STRUCTURED
    assert of("Write a function in python that sorts").style is Style.CODE
    assert of("Tell me of your day").style is Style.CONVERSATION


def test_a_wish_for_a_short_or_long_answer_moves_the_expected_length() -> None:
    assert of("Is it so? Answer yes or no.").length < 1.0 < of("Explain it in detail.").length
    assert of("Is it so?").length == 1.0


def test_the_signs_say_what_decided_and_nothing_of_the_text() -> None:
    told = of("The plaintiff Zanzibar has a contract, and the court is of the view that it is void.")
    assert "script Latin: 66 letters" in told.signs
    assert any(sign.startswith("language en: ") for sign in told.signs)
    assert any(sign.startswith("domain law: ") for sign in told.signs)
    assert "Zanzibar" not in " ".join(told.signs)


def test_a_giant_text_is_looked_at_at_its_ends_only() -> None:
    text = "a" * 10_000 + "b" * 10_000
    assert excerpt(text) == "a" * FIRST + "\n" + "b" * LAST
    assert signs("contract " * 3_000_000).words < 1000


def test_repeating_a_word_adds_no_more_at_some_point() -> None:
    assert signs("prove " * 60).kinds == signs("prove " * 600).kinds


@given(st.text(max_size=300))
def test_any_text_has_a_subject(text: str) -> None:
    told = of(text)
    assert 0.0 < told.length < 10.0
    assert len(told.signs) <= 6
    assert all(len(sign) < 60 for sign in told.signs)


@pytest.mark.parametrize(
    ("stream", "flex", "remaining", "words", "expected"),
    [
        (True, False, None, 500, Urgency.INTERACTIVE),
        (True, True, None, 5, Urgency.BATCH),
        (False, False, 30.0, 500, Urgency.INTERACTIVE),
        (False, False, 3600.0, 5, Urgency.BATCH),
        (False, False, None, 5, Urgency.INTERACTIVE),
        (False, False, None, 500, Urgency.UNKNOWN),
        (False, False, 300.0, 500, Urgency.UNKNOWN),
    ],
)
def test_whether_someone_waits_is_told_by_how_the_request_was_sent(
    stream: bool, flex: bool, remaining: float | None, words: int, expected: Urgency
) -> None:
    told, by = urgency(stream=stream, flex=flex, remaining=remaining, words=words)
    assert told is expected
    assert by
