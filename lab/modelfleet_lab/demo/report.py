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
from modelfleet_lab.demo.reference import Mix, best_mixes, constant_models, quality_at
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

    @property
    def constants(self) -> tuple[Mix, ...]:
        """What each model alone would cost and get right, computed from the answers."""
        return constant_models(self.scenario)


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
        "table": [
            _row(score, findings.replicas[score.policy], findings.constants) for score in findings.scores
        ],
        "constant_models": [
            {"model": mix.model, "quality": round(mix.quality, 4), "cost_usd": mix.cost_usd}
            for mix in findings.constants
        ],
    }


def _row(score: Score, replicas: str, constants: Sequence[Mix]) -> dict[str, object]:
    return {
        "policy": score.policy,
        "quality": round(score.quality, 4),
        "cost_usd": score.cost_usd,
        "random_mix_quality": round(quality_at(best_mixes(constants), score.cost_usd), 4),
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


def summary(scores: Sequence[Score], constants: Sequence[Mix]) -> str:
    """Return in words who won, also when it was not the product, and at what cost and latency."""
    ours, *others = scores
    fair = [score for score in others if score.overspend_usd == 0] or others
    best = max(fair, key=lambda score: score.quality)
    points = 100 * (ours.quality - best.quality)
    kept = "that kept the budget" if len(fair) < len(others) else "of all"
    if abs(points) < 0.05:
        verdict = f"modelfleet and {best.policy}, the best baseline {kept}, answered the same share right"
    elif points > 0:
        verdict = (
            f"modelfleet answered {points:.1f} points of all requests more right than the best baseline "
            f"{kept} ({best.policy})"
        )
    else:
        verdict = (
            f"A baseline wins: {best.policy}, the best {kept}, answered {-points:.1f} points of all requests "
            "more right than modelfleet"
        )
    mix = quality_at(best_mixes(constants), ours.cost_usd)
    return (
        f"{verdict}, at ${ours.cost_usd:.4f} against ${best.cost_usd:.4f} and with a p95 of "
        f"{ours.latency_p95_s:.2f} s against {best.latency_p95_s:.2f} s. A random mix of constant models "
        f"at modelfleet's cost would get {mix:.1%} right if slots were unlimited (modelfleet: "
        f"{ours.quality:.1%})."
    )


def write_report(findings: Findings, folder: Path) -> None:
    """Write `report.html` and `result.json` into `folder`."""
    from modelfleet_lab.demo import plots  # Heavy: loads matplotlib, while the traffic must not wait.

    scenario, runs, scores = findings.scenario, findings.runs, findings.scores
    images = {
        "scatter": plots.quality_and_cost(scores, findings.budget, findings.constants),
        "gpus": plots.gpus_over_time(findings.samples, runs[0], scenario),
        "in_flight": plots.in_flight_over_time(runs[0], findings.samples, scenario),
        "spend": plots.spend_over_time(runs, findings.budget),
    }
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(text).render(
        scenario=scenario,
        scores=scores,
        best=max(score.quality for score in scores),
        summary=summary(scores, findings.constants),
        mixes={s.policy: quality_at(best_mixes(findings.constants), s.cost_usd) for s in scores},
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
