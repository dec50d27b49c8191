"""Distinct requests of one size, made from a seed, in files that the load generator reads.

In: a seed and a number. Out: texts of about 500 tokens, and files of bodies, each behind its length.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelfleet_lab.arrivals import Arrival
from modelfleet_lab.questions.generated import make_questions

TOKENS = 500
CHARACTERS = TOKENS * 4
"""About four characters are a token of English text."""
SYSTEM = "You are a helpful assistant that answers briefly and precisely."
_POOL = 4_000


def prompts(count: int, seed: int) -> list[str]:
    """Return `count` different texts of about 500 tokens: some generated questions, one after the other.

    Questions come back, in other company and another order; no text does.
    """
    arrivals = [Arrival(0.0, TOKENS, 100, code=index % 4 == 0) for index in range(_POOL)]
    pool = [question.prompt for question in make_questions(arrivals, {}, seed=seed).questions]
    draw = random.Random(f"prompts-{seed}")
    made: dict[str, None] = {}
    while len(made) < count:
        parts = [f"Case {len(made):06d}."]
        size = 0
        while size < CHARACTERS:
            parts.append(draw.choice(pool))
            size += len(parts[-1])
        made["\n\n".join(parts)[:CHARACTERS]] = None
    return list(made)


def chat_body(text: str, *, model: str, stream: bool) -> bytes:
    """Return the body of a chat completion."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
        "max_tokens": 200,
        "temperature": 0.2,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body, separators=(",", ":")).encode()


def write_bodies(path: Path, bodies: Iterable[bytes]) -> Path:
    """Write bodies for the load generator: each behind its length, 4 bytes, big-endian."""
    with path.open("wb") as file:
        for body in bodies:
            file.write(struct.pack(">I", len(body)))
            file.write(body)
    return path


def tasks_of(texts: Sequence[str]) -> list[int]:
    """Return a kind from 0 to 3 for each text, by what most of it asks for."""
    marks = ("How many", "What does this program print", "people stand in a queue", "Records:")
    counts = [[text.count(mark) for mark in marks] for text in texts]
    return [max(range(len(marks)), key=row.__getitem__) for row in counts]
