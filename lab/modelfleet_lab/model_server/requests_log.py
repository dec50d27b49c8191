"""What a simulated server writes down of each request, as the evidence that demo and tests count by.

In: finished, refused and cancelled requests. Out: one JSON line each, appended and flushed, and the same in
memory. Next: `modelfleet_lab.demo.evidence` reads the lines.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

from modelfleet_lab.model_server.changes import Changes

IN_MEMORY = 10_000


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the server saw it. Times are seconds since 1970."""

    request_id: str
    question: str | None
    model: str
    server: str
    start: float
    end: float
    first_token: float | None
    input_tokens: int
    output_tokens: int
    """Tokens billed: those that were generated before the end or the cancellation."""
    cost_nano_usd: int
    in_flight_at_arrival: int
    """Requests running or waiting when it arrived, without itself."""
    peak_in_flight: int
    """Largest number of requests running or waiting since the server started."""
    concurrency: int
    over_concurrency: bool
    """Whether it arrived while every slot was taken, and so had to wait."""
    correct: bool | None
    cancelled: bool
    status: int
    """HTTP status; 0: the caller left, or the connection was cut, before one was sent."""
    fault: str | None


class RequestLog:
    """Keeps the newest records in memory and appends all to `path`, where one is given."""

    def __init__(self, path: Path | None, changes: Changes) -> None:
        self._changes = changes
        self.records: deque[RequestRecord] = deque(maxlen=IN_MEMORY)
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")

    def add(self, record: RequestRecord) -> None:
        self.records.append(record)
        if self._file is not None:
            self._file.write(json.dumps(asdict(record), separators=(",", ":")) + "\n")
            self._file.flush()
        self._changes.notify()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def read_records(path: Path) -> list[RequestRecord]:
    """Return the records of a log; a last line that is still being written is left out."""
    names = [field.name for field in fields(RequestRecord)]
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    return [
        RequestRecord(**{name: row[name] for name in names}) for row in map(json.loads, whole.splitlines())
    ]
