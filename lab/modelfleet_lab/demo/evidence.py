"""What a run achieved, told by the model servers' logs.

In: the servers' records and how each request ended for its caller. Out: `Score`. Next: `report`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet_lab.demo.replay import Ending, Outcome
from modelfleet_lab.model_server import RequestRecord, read_records

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Score:
    """One policy's row of the table."""

    policy: str
    requests: int
    quality: float
    """Right answers over all requests; a request without an answer counts 0. From the servers' logs."""
    cost_usd: float
    """Tokens that the servers billed times price, cancelled requests included."""
    overspend_usd: float
    """What the servers billed beyond the budget."""
    concurrency_violations: int
    """Requests that reached a server all of whose slots were taken. From the servers' logs."""
    latency_p50_s: float
    latency_p95_s: float
    """Of answered requests, from sending to the last byte, as their callers measured."""
    shed: int
    """Requests that ended with a clear error instead of an answer."""
    lost: int
    """Requests that ended with neither."""
    by_model: dict[str, int]
    """Answers by model, from the servers' logs."""
    refusals: dict[str, int]
    """Clear errors by what they said."""


@dataclass(frozen=True, slots=True)
class Run:
    """One policy's evidence."""

    policy: str
    outcomes: tuple[Outcome, ...]
    records: tuple[RequestRecord, ...]
    started: float
    """Seconds since 1970."""


def collect(folder: Path) -> tuple[RequestRecord, ...]:
    """Return the records of all logs in `folder`, by their end."""
    records = (record for path in sorted(folder.glob("*.jsonl")) for record in read_records(path))
    return tuple(sorted(records, key=lambda record: record.end))


def score(run: Run, budget: float) -> Score:
    """Count what `run` achieved with `budget` USD."""
    answered = [record for record in run.records if record.status == 200 and not record.cancelled]
    right = {record.question for record in answered if record.correct}
    billed = sum(record.cost_nano_usd for record in run.records)
    latencies = sorted(o.latency for o in run.outcomes if o.ending is Ending.ANSWERED)
    return Score(
        policy=run.policy,
        requests=len(run.outcomes),
        quality=len(right) / len(run.outcomes) if run.outcomes else 0.0,
        cost_usd=billed / NANO,
        overspend_usd=max(0, billed - round(budget * NANO)) / NANO,
        concurrency_violations=sum(record.over_concurrency for record in run.records),
        latency_p50_s=quantile(latencies, 0.50),
        latency_p95_s=quantile(latencies, 0.95),
        shed=_count(run.outcomes, Ending.REFUSED),
        lost=_count(run.outcomes, Ending.LOST),
        by_model=_histogram(record.model for record in answered),
        refusals=_histogram(o.detail for o in run.outcomes if o.ending is Ending.REFUSED),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of `ordered` does not exceed (nearest rank); 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _count(outcomes: Sequence[Outcome], ending: Ending) -> int:
    return sum(outcome.ending is ending for outcome in outcomes)


def _histogram(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
