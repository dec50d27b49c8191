"""Stage forward, streams: cuts a model server's events apart without parsing what is only relayed.

In: bytes as they arrive. Out: whole events to relay; on the way it finds usage, errors and the end.
Next: `forward` settles by `usage` and tells a whole stream from a cut one by `done`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

MAX_EVENT = 1024 * 1024
MAX_TOKENS = 2**31 - 1
MAX_ID = 200
_MARKS = (b'"usage"', b'"error"', b'"length"', b"[DONE]")
"""An event without any of these is relayed unread."""
_ID = re.compile(rb'"id" ?: ?"([\x21\x23-\x5b\x5d-\x7e]{1,200})"')
_EVENT = re.compile(rb".*?\n\r?\n", re.DOTALL)


class BadStreamError(Exception):
    """The stream breaks a bound or its form."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `estimated`: the server did not say, so these are the sidecar's guess."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False
    cached_tokens: int = 0
    """Of the input, found in the server's prompt cache."""


def read_usage(answer: object) -> Usage | None:
    """Return the usage in an answer's or chunk's JSON; None: there is none that makes sense.

    Some servers leave tokens of reasoning out of `completion_tokens` and bill them: the total shows them.
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    total = _tokens(usage.get("total_tokens"))
    return Usage(prompt, completion if total is None else max(completion, total - prompt))


def cut_short(answer: object) -> bool:
    """Return whether a choice in an answer's or chunk's JSON ended at its token limit."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "length" for choice in choices
    )


def answer_id(answer: object) -> str:
    """Return how the server names a whole answer, at most 200 characters; empty: it does not."""
    named = answer.get("id") if isinstance(answer, dict) else None
    return named if isinstance(named, str) and len(named) <= MAX_ID else ""


def _tokens(count: object) -> int | None:
    if isinstance(count, bool) or not isinstance(count, int):
        return None
    return count if 0 <= count <= MAX_TOKENS else None


class EventStream:
    """State of one stream. `keep_usage`: the caller asked for the event that carries only usage;
    `secret`: what no error may quote."""

    def __init__(self, *, keep_usage: bool, secret: str = "") -> None:
        self.usage: Usage | None = None
        self.done = False
        self.error: str | None = None
        """What the server said in an error event."""
        self.events = 0
        self.cut = False
        """Whether a choice ended at its token limit."""
        self.answer_id = ""
        """As the server names the answer; empty: it did not yet."""
        self._keep_usage = keep_usage
        self._secret = secret
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        """Return what to relay: whole events only. Raises BadStreamError."""
        if not self.answer_id and (named := _ID.search(data)) is not None:
            self.answer_id = named[1].decode("ascii")
        if not self._partial and data.endswith(b"\n\n") and not any(mark in data for mark in _MARKS):
            self.events += data.count(b"data:")
            return data
        data = self._partial + data
        end = max(
            data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0,
            data.rfind(b"\n\r\n") + 3 if b"\n\r\n" in data else 0,
        )
        self._partial = data[end:]
        if len(self._partial) > MAX_EVENT:
            raise BadStreamError(f"an event is over {MAX_EVENT} bytes")
        return b"".join(event for event in _events(data[:end]) if self._relays(event))

    def _relays(self, event: bytes) -> bool:
        self.events += 1
        if self.done or self.error is not None:
            return False
        if not any(mark in event for mark in _MARKS):
            return True
        payload = event_data(event)
        if not payload:  # a comment
            return True
        if payload.strip() == b"[DONE]":
            self.done = True
            return True
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            raise BadStreamError("an event holds no JSON") from None
        if not isinstance(chunk, dict):
            return True
        if chunk.get("error"):
            self.error = error_text(chunk, self._secret)
            return False
        self.usage = read_usage(chunk) or self.usage
        self.cut = self.cut or cut_short(chunk)
        return bool(chunk.get("choices")) or self._keep_usage


def _events(data: bytes) -> list[bytes]:
    """Split whole events, each with its blank line."""
    return [event for event in _EVENT.findall(data) if event.strip()]


def event_data(event: bytes) -> bytes:
    """Return the joined `data:` lines of one event."""
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


def error_text(answer: object, secret: str = "") -> str:
    """Return what a model server said of an error, at most 500 characters, without `secret`."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str) or not text:
        return "no reason given"
    return (text.replace(secret, "[API key]") if secret else text)[:500]
