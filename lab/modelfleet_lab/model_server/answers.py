"""What a simulated server answers.

In: a file of JSON lines with `sha256` (of the last user message), `answer`, and where known `output_tokens`,
`question` (its id) and `correct`. Out: the answer to a message; a message that is not in the file gets a
neutral text. Next: `serving` writes it out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 3
NEUTRAL = "This is a simulated answer; the question is not among those that this server was given."


@dataclass(frozen=True, slots=True)
class Call:
    """A function that a model wants called; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    output_tokens: int
    question: str | None = None
    correct: bool | None = None
    """Whether the text is right, as the question's checker found; None: not known."""
    call: Call | None = None
    """Wanted before the text, where the request offers that function and brings no result yet."""


def message_key(text: str) -> str:
    """Return the key of a user message in an answers file."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def text_tokens(text: str) -> int:
    """Return the tokens that a simulated server bills for `text`: one for each 4 bytes begun."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def input_tokens(texts: Iterable[str]) -> int:
    """Return the input tokens of a chat: each message's text and 3 for its frame, as chat templates add."""
    return sum(text_tokens(text) + MESSAGE_TOKENS for text in texts)


def answer_line(message: str, answer: Answer) -> str:
    """Return the line of an answers file that answers `message`."""
    return json.dumps(
        {
            "sha256": message_key(message),
            "question": answer.question,
            "answer": answer.text,
            "output_tokens": answer.output_tokens,
            "correct": answer.correct,
        }
    )


def read_answers(path: Path) -> dict[str, Answer]:
    """Return the answers of a file by message key; raise ValueError naming the line that is wrong."""
    answers: dict[str, Answer] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                answers[str(row["sha256"])] = Answer(
                    text=str(row["answer"]),
                    output_tokens=int(row.get("output_tokens") or max(1, text_tokens(str(row["answer"])))),
                    question=row.get("question"),
                    correct=row.get("correct"),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: {error!r}; each line needs sha256 and answer") from error
    return answers


def find_answer(answers: Mapping[str, Answer], message: str) -> Answer:
    """Return the answer to `message`, or the neutral text."""
    found = answers.get(message_key(message))
    return found if found is not None else Answer(NEUTRAL, text_tokens(NEUTRAL))
