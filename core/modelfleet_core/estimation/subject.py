"""Stage assign, part of the profile: what a text is about and what answer it asks for, from its signs.

In: `Signs`. Out: `Subject`, each word of it with the signs that decided. Next: `profile`, explanations.

Guesses by hand-written lists: good where the words are plain, empty or general elsewhere. No decision but the
task's rests on them; they tell users what the profiler saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelfleet_core.estimation.lexicon import (
    CODE,
    FINANCE,
    LANGUAGE,
    LANGUAGE_OF_SCRIPT,
    LAW,
    LONG,
    MATHS,
    MEDICINE,
    SCIENCE,
    SHORT,
    STRUCTURED,
)
from modelfleet_core.estimation.script import most_of
from modelfleet_core.estimation.signs import Signs

GENERAL = "general"
_KANA = ("Hiragana", "Katakana")
_JAPANESE = 0.05
"""Part of kana among Han and kana from which a text is Japanese."""
_COMMON = 0.04
"""Part of a text's words that are small words of its language, at least."""
_LEAD = 1.2
"""Times that the most likely language has the small words of the next."""


class Style(Enum):
    """What kind of answer is asked for."""

    CONVERSATION = "Conversation"
    CODE = "Code"
    STRUCTURED = "Structured"
    """JSON, YAML, CSV, a table."""


@dataclass(frozen=True, slots=True)
class Subject:
    script: str
    """Of most letters (Unicode's name); empty: no letters."""
    language: str
    """ISO 639-1; empty: not told apart."""
    domain: str
    """maths, code, science, medicine, law, finance or general."""
    style: Style
    length: float
    """Answers are expected so many times as long as those of the task: shorter or longer is asked for."""
    signs: tuple[str, ...]
    """What decided, such as `domain law: 4 words`; nothing of the text itself."""


def length_of(signs: Signs) -> float:
    """Return `Subject.length` of a text with `signs`."""
    shorter, longer = signs.of(SHORT), signs.of(LONG)
    if shorter == longer:
        return 1.0
    return 0.4 if shorter > longer else 1.6


def subject(signs: Signs) -> Subject:
    """Return what a text with `signs` is about."""
    script = most_of(signs.letters)
    language, spoke = _language(signs, script)
    domain, weight = _domain(signs)
    style, by = _style(signs)
    length = length_of(signs)
    said = [f"script {script}: {signs.letters[script]} letters"] if script else []
    said += [f"language {language}: {spoke}"] if language else []
    said += [f"domain {domain}: {weight:g} signs"] if domain != GENERAL else []
    said += [f"style {style.value}: {by}"] if by else []
    if length != 1.0:
        kind = SHORT if length < 1.0 else LONG
        said.append(f"{kind}: {signs.of(kind)} words")
    return Subject(script, language, domain, style, length, tuple(said))


def _language(signs: Signs, script: str) -> tuple[str, str]:
    """Return the language and how it was known."""
    if script == "Han" or script in _KANA:
        kana = sum(signs.letters.get(name, 0) for name in _KANA)
        if kana >= _JAPANESE * (kana + signs.letters.get("Han", 0)):
            return "ja", f"{kana} kana"
        return "zh", "Han without kana"
    if script in LANGUAGE_OF_SCRIPT:
        return LANGUAGE_OF_SCRIPT[script], f"script {script}"
    found = sorted(
        ((times, kind) for kind, times in signs.kinds.items() if kind.startswith(LANGUAGE)), reverse=True
    )
    if not found:
        return "", ""
    times, kind = found[0]
    others = found[1][0] if len(found) > 1 else 0
    if times < max(2.0, _COMMON * min(signs.words, 500)) or times < _LEAD * others:
        return "", ""
    return kind.removeprefix(LANGUAGE), f"{times} small words"


def _domain(signs: Signs) -> tuple[str, float]:
    """Return the domain that most signs speak for, and how many; `general` where none is clear."""
    weights = {name: float(signs.of(name)) for name in (SCIENCE, MEDICINE, LAW, FINANCE)}
    weights[CODE] = float(signs.of(CODE) + 2 * signs.code)
    weights[MATHS] = signs.of(MATHS) + signs.formulas + 0.25 * min(signs.numbers, 8)
    best = max(weights, key=weights.__getitem__)
    return (best, weights[best]) if weights[best] >= 2.0 else (GENERAL, 0.0)


def _style(signs: Signs) -> tuple[Style, str]:
    structured, code = signs.of(STRUCTURED), signs.of(CODE) + 2 * signs.code
    if structured and structured >= code:
        return Style.STRUCTURED, f"{structured} words"
    if code >= 2:
        return Style.CODE, f"{code} signs"
    return Style.CONVERSATION, ""
