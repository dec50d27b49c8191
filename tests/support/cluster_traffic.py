"""What happened to every request, told twice: by the applications that sent it and by the models' logs.

In: the folder that both write to. Out: outcomes, records, and what does not add up.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet_lab.model_server import RequestRecord, read_records

PATIENCE = 90.0
"""Seconds in which what a test waits for must have happened."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended for its application. Times are seconds since 1970."""

    pod: str
    start: float
    end: float
    ending: str
    """answered; refused: one clear error and no byte of an answer; cut: one clear error after it; lost."""
    detail: str
    decision: str

    def __str__(self) -> str:
        return f"{self.pod} {self.start:.3f} +{self.end - self.start:.2f}s {self.ending} {self.detail}"


class Traffic:
    """The records in a folder, read anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def outcomes(self, pod: str = "", since: float = 0.0) -> list[Outcome]:
        """Return the outcomes of pods whose name starts with `pod`, of requests sent after `since`."""
        found = []
        for path in self.folder.glob(f"{pod}*.jsonl"):
            for line in path.read_text().splitlines(keepends=True):
                row = json.loads(line) if line.endswith("\n") else {}
                if "ending" in row and row["start"] >= since:
                    names = ("start", "end", "ending", "detail", "decision")
                    found.append(Outcome(path.stem, *(row[name] for name in names)))
        return sorted(found, key=lambda outcome: outcome.end)

    def records(self) -> list[RequestRecord]:
        """Return what the models wrote down, by end."""
        found = [
            record
            for path in self.folder.glob("*.jsonl")
            if '"ending"' not in path.read_text()
            for record in read_records(path)
        ]
        return sorted(found, key=lambda record: record.end)

    def until_answered(self, count: int, *, pod: str = "", since: float = 0.0) -> list[Outcome]:
        """Wait until so many requests sent after `since` were answered; return all that ended."""
        deadline = time.monotonic() + PATIENCE
        while True:
            ended = self.outcomes(pod, since)
            if sum(outcome.ending == "answered" for outcome in ended) >= count:
                return ended
            assert time.monotonic() < deadline, (
                f"{pod or 'all applications'}: {summary(ended)} in {PATIENCE:.0f} s, {count} answers awaited"
            )
            time.sleep(0.2)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return counts by ending, and the first of those that were not answered."""
    counts = Counter(outcome.ending for outcome in outcomes)
    worse = [str(outcome) for outcome in outcomes if outcome.ending != "answered"]
    return f"{dict(counts)}" + "".join(f"\n  {line}" for line in worse[:12])


def all_answered(outcomes: Sequence[Outcome]) -> None:
    """Fail with the exceptions if not every request was answered."""
    assert outcomes
    assert {outcome.ending for outcome in outcomes} == {"answered"}, summary(outcomes)
