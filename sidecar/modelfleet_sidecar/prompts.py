"""Stage batch, the edge: what legacy completions and embeddings are asked: texts, or lists of tokens.

In: the value of `prompt` or `input`. Out: `Prompts`. Next: `completions`, `embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfleet_sidecar.failures import Failure, bad_field
from modelfleet_sidecar.request_fields import kind_of

MAX_PROMPTS = 2048
MAX_TOKEN = 2**31 - 1
REMEDY = "a string, a list of strings, a list of token numbers, or a list of such lists"


@dataclass(frozen=True, slots=True)
class Prompts:
    """What each prompt of a request says."""

    count: int
    texts: tuple[str, ...]
    """Of those that are texts."""
    tokens: int
    """Of those that are given as tokens, all together."""


def prompts(value: object, name: str) -> Prompts:
    """Return the prompts that field `name` holds. Raises Failure."""
    if value is None:
        raise bad_field(name, f"is missing; give {REMEDY}")
    if isinstance(value, str):
        return Prompts(1, (value,), 0)
    if not isinstance(value, list):
        raise bad_field(name, f"must be {REMEDY}, not {kind_of(value)}")
    if not value:
        raise bad_field(name, f"is empty; give {REMEDY}")
    if isinstance(value[0], int):
        return Prompts(1, (), _tokens(value, name))
    if len(value) > MAX_PROMPTS:
        raise bad_field(name, f"has {len(value)} entries; give at most {MAX_PROMPTS} at once")
    texts: list[str] = []
    tokens = 0
    for index, item in enumerate(value):
        at = f"{name}[{index}]"
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list) and item:
            tokens += _tokens(item, at)
        else:
            raise _wrong(at, item)
    return Prompts(len(value), tuple(texts), tokens)


def _tokens(value: list[object], name: str) -> int:
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= MAX_TOKEN:
            raise bad_field(f"{name}[{index}]", f"must be a token's number, from 0 to {MAX_TOKEN}")
    return len(value)


def _wrong(at: str, item: object) -> Failure:
    given = "an empty list" if item == [] else kind_of(item)
    return bad_field(at, f"must be a string or a list of token numbers, not {given}")
