"""Stage assign, first half: what a request asks, as far as its text shows without training.

In: the texts of a request's messages. Out: `RequestProfile`. Next: `estimate`.

The last message is looked at in part (`signs`), so that a giant input costs no more than a long one; bytes
are counted in full, since the reserve rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from modelfleet_core.estimation import lexicon
from modelfleet_core.estimation.script import most_of
from modelfleet_core.estimation.signs import Signs, signs
from modelfleet_core.estimation.subject import Subject, length_of, subject
from modelfleet_core.values import TaskName

MATH, CODE, REASONING, CHAT = TaskName("math"), TaskName("code"), TaskName("reasoning"), TaskName("chat")
GUESSED = frozenset({MATH, CODE, REASONING, CHAT})
"""Tasks of requests whose task nobody named."""

_BYTES_PER_TOKEN = 4.0
_MESSAGE_OVERHEAD = 16
"""Tokens that a chat template may add around one message, and once around the conversation."""
_OUTPUT_TOKENS: Mapping[TaskName, float] = {MATH: 350.0, CODE: 400.0, REASONING: 300.0, CHAT: 180.0}
"""Expected answers before any has been seen."""


@dataclass(frozen=True, slots=True)
class RequestProfile:
    task: TaskName
    difficulty: float
    """0 (plain) to 1 (hard)."""
    input_tokens: int
    """Expected."""
    input_tokens_bound: int
    """No tokenizer makes more of it: UTF-8 bytes plus the overhead of each message."""
    output_tokens: float
    """Expected, at most `max_output_tokens`."""
    max_output_tokens: int
    """Enforced upstream, so that the reserve is a bound."""
    text: str = field(repr=False, default="")
    """The message that is routed by, whole; estimators look at it, nothing stores or logs it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at a request's messages tells, before anything else is known of it."""

    text: str = field(repr=False)
    """The last message that says something, whole: what was said before matters less. Never logged."""
    size: int
    """UTF-8 bytes of all messages."""
    messages: int
    signs: Signs
    """In the part of the text that is looked at."""

    @property
    def script(self) -> str:
        """Of most letters (Unicode's name); empty: no letters."""
        return most_of(self.signs.letters)

    @property
    def subject(self) -> Subject:
        """What the text is about, found out when somebody asks."""
        return subject(self.signs)

    @property
    def input_tokens(self) -> int:
        """Expected tokens of all messages."""
        return math.ceil(self.size / _BYTES_PER_TOKEN) + 4 * self.messages


def read(texts: Sequence[str]) -> Reading:
    """Read the messages `texts` (oldest first)."""
    text = next((text for text in reversed(texts) if text and not text.isspace()), "")
    return Reading(
        text=text,
        size=sum([_bytes(text) for text in texts]),
        messages=len(texts),
        signs=signs(text),
    )


def profile(
    texts: Sequence[str],
    *,
    task: TaskName | None,
    asked_output_tokens: int | None,
    max_output_tokens: int,
    seen_output_tokens: Mapping[TaskName, float] | None = None,
) -> RequestProfile:
    """Profile the messages `texts` (oldest first); see `profile_of`."""
    return profile_of(
        read(texts),
        task=task,
        asked_output_tokens=asked_output_tokens,
        max_output_tokens=max_output_tokens,
        seen_output_tokens=seen_output_tokens,
    )


def profile_of(
    reading: Reading,
    *,
    task: TaskName | None,
    asked_output_tokens: int | None,
    max_output_tokens: int,
    seen_output_tokens: Mapping[TaskName, float] | None = None,
    told_tokens: int = 0,
    hidden_tokens: int = 0,
) -> RequestProfile:
    """Return what a request asks that was read before.

    `task` as the caller or a rule named it; None: guessed from words. `asked_output_tokens` is the caller's
    limit, None: `max_output_tokens` (the policy's) holds; the smaller one is enforced. `seen_output_tokens`
    are running means of answers by task; absent ones fall back to typical lengths. Besides texts the prompt
    has `told_tokens`, and at most `hidden_tokens` more.
    """
    named = task if task is not None else _guess(reading.signs)
    difficulty = _difficulty(reading.signs, reading.size)
    limit = max_output_tokens if asked_output_tokens is None else min(asked_output_tokens, max_output_tokens)
    seen = (seen_output_tokens or {}).get(named)
    typical = seen if seen is not None else _OUTPUT_TOKENS.get(named, _OUTPUT_TOKENS[CHAT])
    return RequestProfile(
        task=named,
        difficulty=difficulty,
        input_tokens=reading.input_tokens + told_tokens,
        input_tokens_bound=reading.size
        + _MESSAGE_OVERHEAD * (reading.messages + 1)
        + told_tokens
        + hidden_tokens,
        # Harder questions are answered at more length: half as much at 0, one and a half times at 1.
        output_tokens=min(float(limit), typical * (0.5 + difficulty) * length_of(reading.signs)),
        max_output_tokens=limit,
        text=reading.text,
    )


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _guess(signs: Signs) -> TaskName:
    """Return the task that the signs speak for most clearly; chat where none does."""
    of = signs.kinds.get
    scores = (
        (2.0 * (of(lexicon.CODE, 0) + signs.code), CODE),
        (of(lexicon.MATHS, 0) + signs.formulas + 0.5 * min(signs.numbers, 6), MATH),
        (1.5 * of(lexicon.REASONING, 0) + 0.25 * of(lexicon.STEPS, 0), REASONING),
    )
    best, task = max(scores, key=itemgetter(0))
    return task if best >= 2.0 else CHAT


def _difficulty(signs: Signs, size: int) -> float:
    """Return `1 - exp(-evidence / 4)`: every sign of work adds, with less and less effect."""
    of = signs.kinds.get
    evidence = (
        0.25 * math.log2(1.0 + size / 200.0)
        + 0.20 * of(lexicon.STEPS, 0)
        + 0.25 * (of(lexicon.MATHS, 0) + signs.formulas)
        + 0.10 * min(signs.numbers, 12)
        + 0.20 * min(of(lexicon.CODE, 0) + signs.code, 10)
        + 0.30 * of(lexicon.REASONING, 0)
        + 0.01 * min(signs.words, 100)
    )
    return 1.0 - math.exp(-evidence / 4.0)
