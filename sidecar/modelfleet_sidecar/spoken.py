"""Stage forward, on the side: the text of one answer as it passes, for the judge, up to a bound.

In: a whole answer, or the events of a stream, as they go to the caller. Out: its first characters. Next:
`judge`, once the caller has all of it. Only answers that were chosen before they came are read so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_DATA = b"data:"


class Spoken:
    """The first `most` characters of an answer's first choice."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._parts: list[str] = []
        self.cut = False
        """Whether the answer was longer."""

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def whole(self, answer: object) -> None:
        """Take the text of an answer's JSON."""
        self._say(_content(answer, "message"))

    def events(self, relayed: bytes) -> None:
        """Take the text of whole events of a stream; one whose data is no JSON says nothing."""
        if self.cut:
            return
        for line in relayed.splitlines():
            if not line.startswith(_DATA):
                continue
            try:
                chunk = json.loads(line[len(_DATA) :])
            except (ValueError, RecursionError):
                continue  # its end, or data over several lines, which model servers do not send
            self._say(_content(chunk, "delta"))

    def _say(self, text: str) -> None:
        if not text:
            return
        self.cut = self.cut or len(text) > self._left
        self._parts.append(text[: self._left])
        self._left -= len(self._parts[-1])


def _content(answer: object, kind: str) -> str:
    """Return the text of the first choice's message or delta; empty: there is none."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and choice.get("index", 0) == 0:
            said = choice.get(kind)
            content = said.get("content") if isinstance(said, Mapping) else None
            return content if isinstance(content, str) else ""
    return ""
