"""Writes what the demo found: `report.html`, which needs no network, and `result.json`.

In: scores, runs, samples. Out: two files. Next: the user, and whoever checks the figures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2

from modelfleet_lab.demo.evidence import Run, Score
from modelfleet_lab.demo.sampling import FleetSample
from modelfleet_lab.demo.scenario import DEADLINE, WARM_UP, Scenario

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the demo found; the first run and score are the product's."""

    scenario: Scenario
    scores: tuple[Score, ...]
    runs: tuple[Run, ...]
    budget: float
    """USD that each policy could spend."""
    replicas: Mapping[str, str]
    """With which replicas each policy ran, in words."""
    samples: tuple[FleetSample, ...]
    cluster: str
    """What kind of cluster it was, in words."""
    seconds: float


def result(findings: Findings) -> dict[str, object]:
    """Return what `result.json` holds."""
    ours = findings.scores[0]
    return {
        "seconds": round(findings.seconds, 1),
        "overspend_usd": ours.overspend_usd,
        "concurrency_violations": ours.concurrency_violations,
        "lost_requests": ours.lost,
        "seed": findings.scenario.seed,
        "requests": len(findings.scenario.requests),
        "budget_usd": findings.budget,
        "table": [_row(score, findings.replicas[score.policy]) for score in findings.scores],
    }


def _row(score: Score, replicas: str) -> dict[str, object]:
    return {
        "policy": score.policy,
        "quality": round(score.quality, 4),
        "cost_usd": score.cost_usd,
        "latency_p50_s": round(score.latency_p50_s, 3),
        "latency_p95_s": round(score.latency_p95_s, 3),
        "shed": score.shed,
        "overspend_usd": score.overspend_usd,
        "concurrency_violations": score.concurrency_violations,
        "lost_requests": score.lost,
        "answers_by_model": score.by_model,
        "replicas": replicas,
        "refusals": score.refusals,
    }


def summary(scores: Sequence[Score]) -> str:
    """Return one sentence that says who won, also when it was not the product."""
    ours, *others = scores
    best = max(others, key=lambda score: score.quality)
    points = 100 * (ours.quality - best.quality)
    if abs(points) < 0.05:
        return f"modelfleet and {best.policy} answered the same share right."
    side = "more" if points > 0 else "fewer"
    return (
        f"modelfleet answered {abs(points):.1f} points of all requests {side} right than the best baseline "
        f"({best.policy}), at {ours.cost_usd / best.cost_usd:.2f} times its cost."
    )


def write_report(findings: Findings, folder: Path) -> None:
    """Write `report.html` and `result.json` into `folder`."""
    from modelfleet_lab.demo import plots  # Heavy: loads matplotlib, while the traffic must not wait.

    scenario, runs, scores = findings.scenario, findings.runs, findings.scores
    images = {
        "scatter": plots.quality_and_cost(scores, findings.budget),
        "replicas": plots.replicas_over_time(findings.samples, runs[0], scenario),
        "in_flight": plots.in_flight_over_time(runs[0], scenario),
        "spend": plots.spend_over_time(runs, findings.budget),
    }
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(text).render(
        scenario=scenario,
        scores=scores,
        best=max(score.quality for score in scores),
        summary=summary(scores),
        images={name: _inline(png) for name, png in images.items()},
        replicas=findings.replicas,
        refusals=[(s.policy, detail, n) for s in scores for detail, n in s.refusals.items()],
        cluster=findings.cluster,
        deadline=f"{DEADLINE:g}",
        seconds=findings.seconds,
        budget=findings.budget,
        warm_up=f"{WARM_UP:g}",
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result(findings), indent=2) + "\n", encoding="utf-8")


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
