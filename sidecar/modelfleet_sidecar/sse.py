"""Stage forward, streams: cuts a model server's events apart without parsing what is only relayed.

In: bytes as they arrive. Out: whole events to relay; on the way it finds content, usage, errors and the end.
Next: `exchange` holds back what comes before the first content, settles by `usage` and tells a whole stream
from a cut one by `done`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from modelfleet_sidecar.dialect import CHAT, Dialect, Usage

MAX_EVENT = 1024 * 1024
BYTES_PER_TOKEN = 4.0
_ID = re.compile(rb'"id" ?: ?"([\x21\x23-\x5b\x5d-\x7e]{1,200})"')
_EVENT = re.compile(rb".*?\n\r?\n", re.DOTALL)


class BadStreamError(Exception):
    """The stream breaks a bound or its form."""


class EventStream:
    """State of one stream. `keep_usage`: the caller asked for the event that carries only usage."""

    def __init__(self, *, keep_usage: bool, dialect: Dialect = CHAT) -> None:
        self.usage: Usage | None = None
        """As last said: some servers count in every event, each time from the beginning."""
        self.done = False
        self.error: object = None
        """What the server said in an error event; None: there was none."""
        self.spoke = False
        """Whether there was any content; until then every event is read."""
        self.finished = False
        """Whether the model said that it was through, before any content."""
        self.events = 0
        self.size = 0
        """Bytes of whole events."""
        self.frame = 0
        """Bytes of the first event with content besides its content."""
        self.cut = False
        """Whether a choice ended at its token limit."""
        self.answer_id = ""
        """As the server names the answer; empty: it did not yet."""
        self._keep_usage = keep_usage
        self._dialect = dialect
        self._marks = dialect.marks
        self._partial = bytearray()
        """What has come of an event that has not ended."""

    @property
    def tokens(self) -> float:
        """Tokens so far, at least: one for each event, more where events hold more than the first one."""
        return max(self.events, (self.size - self.events * self.frame) / BYTES_PER_TOKEN)

    def feed(self, data: bytes) -> bytes:
        """Return what to relay: whole events only. Raises BadStreamError."""
        if not self.answer_id and (named := _ID.search(data)) is not None:
            self.answer_id = named[1].decode("ascii")
        if self.plain(data):
            self.count(data)
            return data
        if self._partial:
            data = self._joined(data)
        end = max(
            data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0,
            data.rfind(b"\n\r\n") + 3 if b"\n\r\n" in data else 0,
        )
        self.size += end
        if end < len(data):
            self._partial += data[end:]
            if len(self._partial) > MAX_EVENT:
                raise BadStreamError(f"an event is over {MAX_EVENT} bytes")
        return b"".join(event for event in _events(data[:end]) if self._relays(event)) if end else b""

    def plain(self, data: bytes) -> bool:
        """Return whether data is whole events that need no look: they go on as they are."""
        return self.spoke and not self._partial and _closed(data) and not self._marked(data)

    def count(self, data: bytes) -> None:
        """Take note of plain data that goes on."""
        self.events += data.count(b"data:")
        self.size += len(data)

    def _joined(self, data: bytes) -> bytes:
        """Return an event with what comes after it, once it may have ended; before that only what ended not.

        Joined anew with each piece, a long event in small ones would cost the square of its length.
        """
        near = bytes(self._partial[-2:]) + data
        if b"\n\n" in near or b"\n\r\n" in near:
            data = bytes(self._partial) + data
            self._partial.clear()
        return data

    def _marked(self, data: bytes) -> bool:
        for mark in self._marks:  # noqa: SIM110 - a generator costs more than the search
            if mark in data:
                return True
        return False

    def _relays(self, event: bytes) -> bool:
        self.events += 1
        if self.done or self.error is not None:
            return False
        if self.spoke and _closed(event) and not self._marked(event):
            return True
        payload = event_data(event)
        if not payload:  # a comment
            return True
        if payload.strip() == b"[DONE]":
            self.done = True
            return self._dialect.says_done
        try:
            chunk = json.loads(payload)
        except (ValueError, RecursionError):
            raise BadStreamError("an event holds no JSON") from None
        return not isinstance(chunk, dict) or self._read(chunk, len(event))

    def _read(self, chunk: Mapping[object, object], size: int) -> bool:
        dialect = self._dialect
        self.error = dialect.failure(chunk)
        if self.error is not None:
            return False
        self.usage = dialect.usage(chunk) or self.usage
        self.cut = self.cut or dialect.cut(chunk)
        if not self.spoke:
            if said := dialect.said(chunk):
                self.spoke = True
                self.frame = max(0, size - said)
            self.finished = self.finished or dialect.finishes(chunk)
        self.done = dialect.ends(chunk)
        return self._keep_usage or not dialect.only_usage(chunk)


def _closed(data: bytes) -> bool:
    """Return whether data is whole events that each end an object: what breaks off within one is read."""
    return data.endswith(b"}\n\n") and data.count(b"\n\n") == data.count(b"}\n\n")


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
