"""Stage assign, before estimation: the first of a policy's rules that a request matches.

In: a policy's rules, compiled once; then of each request its text, script, size and headers. Out: the rule
that is for it, or None. Next: the rule's task, models and parameters hold where the request is looked at.

A text is looked at in its first `LOOKED_AT` characters, with RE2 in linear time, so that neither a giant text
nor a pattern made to run long can hold up anyone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import re2

from modelfleet_core.keywords import Keywords, Words
from modelfleet_core.policy import Rule
from modelfleet_core.values import ModelName

LOOKED_AT = 8192
"""Characters of a text that keywords and patterns are looked for in."""
MAX_PATTERN = 1024
"""Characters of one pattern."""
MAX_PROGRAM, MAX_PROGRAMS = 2048, 4096
"""Instructions of one pattern, and of all patterns of a policy: a text costs at most so many steps for each
of its characters."""
_MEMORY = 1 << 20
"""Bytes that one pattern may take, compiled and with its cache."""


class PatternError(ValueError):
    """A pattern that is refused; the text says why and what to write instead."""


class Pattern(Protocol):
    programsize: int

    def search(self, text: bytes) -> object | None: ...


def compiled(pattern: str) -> Pattern:
    """Return a pattern ready for `search` in UTF-8. Raises PatternError."""
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = True
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"has {len(pattern)} characters; write at most {MAX_PATTERN}")
    try:
        found: Pattern = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise PatternError("has half of a surrogate pair; write whole characters") from None
    except re2.error as error:
        said = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        if "too large" in said:
            raise PatternError("is too large compiled; write fewer or smaller repetitions") from None
        raise PatternError(
            f"is refused by RE2: {said}; write RE2 syntax, which has no look-around, back-references or"
            " possessive repetitions"
        ) from None
    if found.programsize > MAX_PROGRAM:
        problem = f"takes {found.programsize} instructions, more than {MAX_PROGRAM}"
        raise PatternError(f"{problem}; write fewer or smaller repetitions or classes")
    return found


@dataclass(frozen=True, slots=True)
class Asking:
    """What rules look at of one request."""

    text: str
    script: str
    """Of most letters of the text (`estimation.script`)."""
    tokens: int
    """Expected input tokens of the whole request."""
    headers: Mapping[str, str]
    """Lower-case names."""


@dataclass(frozen=True, slots=True)
class Matched:
    rule: Rule
    by: tuple[str, ...]
    """The conditions that held, such as `anyKeyword: def`; nothing of the text that the rule does not say."""


class _Compiled:
    """One rule, its conditions from the cheapest to the dearest."""

    def __init__(self, rule: Rule) -> None:
        match = rule.match
        self.rule = rule
        self._least = match.min_tokens if match.min_tokens is not None else 0
        self._most = match.max_tokens
        self._script = match.script
        self._headers = tuple(match.headers.items())
        self._any, self._all = Keywords(match.any_keyword), Keywords(match.all_keywords)
        self._regex = compiled(match.regex) if match.regex else None

    def by(self, asked: Asking, words: Words, encoded: _Encoded) -> tuple[str, ...] | None:
        """Return what held; None: something did not."""
        if asked.tokens < self._least or (self._most is not None and asked.tokens > self._most):
            return None
        if self._script and asked.script != self._script:
            return None
        for name, value in self._headers:
            if asked.headers.get(name) != value:
                return None
        keyword = ""
        if self._any and not (keyword := words.first(self._any)):
            return None
        if self._all and not words.all(self._all):
            return None
        if self._regex is not None and self._regex.search(encoded.text) is None:
            return None
        held = [f"header: {name}" for name, _ in self._headers]
        match = self.rule.match
        held += [f"minTokens: {match.min_tokens}"] if match.min_tokens is not None else []
        held += [f"maxTokens: {match.max_tokens}"] if match.max_tokens is not None else []
        held += [f"script: {self._script}"] if self._script else []
        held += [f"anyKeyword: {keyword}"] if keyword else []
        held += ["allKeywords"] if self._all else []
        held += ["regex"] if self._regex is not None else []
        return tuple(held)


class _Encoded:
    """The text in UTF-8, made when the first pattern asks for it."""

    def __init__(self, text: str) -> None:
        self._source = text
        self._bytes: bytes | None = None

    @property
    def text(self) -> bytes:
        if self._bytes is None:
            self._bytes = self._source.encode("utf-8", "replace")
        return self._bytes


class Rules:
    """The rules of one policy."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Raises PatternError."""
        self._rules = tuple(map(_Compiled, rules))

    def first(self, asked: Asking) -> Matched | None:
        """Return the first rule that `asked` matches, and why; None: it matches none."""
        if not self._rules:
            return None
        text = asked.text[:LOOKED_AT]
        words, encoded = Words(text), _Encoded(text)
        for one in self._rules:
            if (by := one.by(asked, words, encoded)) is not None:
                return Matched(one.rule, by)
        return None


def forbids(rule: Rule | None, model: ModelName) -> bool:
    """Return whether `rule` keeps its requests from `model`."""
    if rule is None:
        return False
    return model in rule.deny or (rule.allow is not None and model not in rule.allow)


def decides(
    rule: Rule | None, default: ModelName | None, possible: Collection[ModelName], *, named: bool
) -> frozenset[ModelName] | None:
    """Return the models that are left where estimates are not trusted; None: estimates decide all the same.

    The rule's preferred ones, else those that it allows, else the policy's `default` model; of each only what
    is `possible`, that is, could serve the request. `named`: the caller named the model, and that stands.
    """
    if named:
        return None
    able = frozenset(possible)
    chosen = [rule.prefer, rule.allow or frozenset()] if rule is not None else []
    chosen.append(frozenset([default]) if default is not None else frozenset())
    left = (frozenset(one for one in models & able if not forbids(rule, one)) for models in chosen)
    return next((models for models in left if models), None)
