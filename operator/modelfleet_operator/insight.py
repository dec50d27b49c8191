"""Stage status: what a policy's answers showed, as users read it in its status.

In: the cells that the leader merged and how estimates stand. Out: the parts `estimator`, `traffic`,
`groups` and `suggestions` of a RoutingPolicy's status, the condition `EstimatorReady`, and metrics. Pure;
next: `policies`.

All counts fade with the policy's half-life, so that they speak of lately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.drift import Verdict
from modelfleet_core.estimation.experience import ExperienceCell, Figure, FloatArray
from modelfleet_core.estimation.suggestions import Kind, suggestions
from modelfleet_core.policy import Policy

from modelfleet_operator.conditions import Condition, no, unknown, yes
from modelfleet_operator.figures import LearningFigures
from modelfleet_operator.judgement import judgement
from modelfleet_operator.learning import LearningView

ESTIMATOR_READY = "EstimatorReady"
MAX_TRAFFIC, MAX_GROUPS, MAX_MODELS_OF_GROUP = 64, 65, 8
FEEDBACK, PREDICTED = "Feedback", "Predicted"
LEAST_SCORES = 10.0
"""Scores from which their mean is told rather than what was predicted."""
_LEAST = 0.5
"""Requests of which nothing is told, as they faded away."""
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Tally:
    """What some answers came to; `sums` (len(Figure),)."""

    sums: FloatArray

    @property
    def requests(self) -> float:
        return float(self.sums[Figure.REQUESTS])

    @property
    def scores(self) -> float:
        return float(self.sums[Figure.SCORES])

    @property
    def score(self) -> float | None:
        """Mean of the scores from feedback; None: too few."""
        return float(self.sums[Figure.SCORE]) / self.scores if self.scores >= LEAST_SCORES else None

    @property
    def predicted(self) -> float:
        return float(self.sums[Figure.PREDICTED]) / self.requests if self.requests else 0.0

    @property
    def cost(self) -> float:
        """USD of all of them."""
        return float(self.sums[Figure.COST])


def tallies(cells: Iterable[ExperienceCell], of: Callable[[ExperienceCell], str]) -> dict[str, Tally]:
    """Return the sums of all cells by `of`."""
    sums: dict[str, FloatArray] = {}
    for cell in cells:
        sums[of(cell)] = sums.get(of(cell), np.zeros(len(Figure))) + cell.sums
    return {name: Tally(total) for name, total in sums.items() if total[Figure.REQUESTS] >= _LEAST}


def estimator_condition(policy: Policy, view: LearningView | None) -> Condition:
    """Return whether estimates come from where the policy says, and whether they hold."""
    if view is None:
        return unknown(ESTIMATOR_READY, "NotInForce", "the policy is not in force")
    fault = view.base.fault
    if fault is not None and fault.reason == "NotRead":
        return unknown(ESTIMATOR_READY, fault.reason, fault.message)
    if fault is not None:
        going = "" if view.base.document is not None else "; sidecars go on with the estimates that they have"
        return no(ESTIMATOR_READY, fault.reason, fault.message + going)
    if policy.learning.enabled and view.standing is None:
        waits = f": {view.problem}" if view.problem else ""
        return unknown(ESTIMATOR_READY, "NotRead", f"what was learned before is not read yet{waits}")
    start = "the fleet's priors" if policy.estimator.ref is None else f"ConfigMap {policy.estimator.ref}"
    if view.base.strangers:
        names = ", ".join(view.base.strangers[:_NAMED])
        start += f", which was trained without {names} (their estimates start from the fleet's priors)"
    kept = f"; what is learned is not kept: {view.problem}" if view.problem else ""
    verdict = view.standing.verdict if view.standing is not None else Verdict.STEADY
    if verdict is Verdict.ROLLED_BACK:
        message = (
            f"what was learned did worse than {start} and is withdrawn until new scores do better: look at "
            "who sends feedback and what changed"
        )
        return yes(ESTIMATOR_READY, "RolledBack", message + kept)
    if verdict is Verdict.DRIFT:
        message = (
            f"scores moved away from the estimates, which start from {start}: a model, the requests or the "
            "feedback changed; older evidence counts half, train anew if it lasts"
        )
        return yes(ESTIMATOR_READY, "Drifting", message + kept)
    if view.learned_version:
        return yes(ESTIMATOR_READY, "Learned", f"estimates start from {start} and follow feedback{kept}")
    reason = "Priors" if policy.estimator.ref is None else "Loaded"
    learns = "follow feedback once there is some" if policy.learning.enabled else "do not learn"
    return yes(ESTIMATOR_READY, reason, f"estimates start from {start} and {learns}{kept}")


def estimator_body(view: LearningView) -> dict[str, object]:
    """Return `status.estimator`."""
    body: dict[str, object] = {
        "version": view.base.document.version if view.base.document is not None else "",
        "learnedVersion": view.learned_version,
        "samples": round(sum(float(cell.sums[Figure.SCORES]) for cell in view.cells)),
        "drift": False,
        "rolledBack": False,
    }
    standing = view.standing
    if standing is not None:
        body["drift"] = standing.verdict is Verdict.DRIFT
        body["rolledBack"] = standing.verdict is Verdict.ROLLED_BACK
        body["calibrationError"] = f"{standing.residual:.4f}"
    return body


def traffic_body(cells: Iterable[ExperienceCell]) -> list[dict[str, object]]:
    """Return `status.traffic`: what each model answered."""
    found = tallies(cells, lambda cell: cell.key.model)
    total = sum(tally.requests for tally in found.values())
    return [
        {"model": model, **_told(tally, total), "spent": f"{tally.cost:.6f}"}
        for model, tally in _busiest(found, MAX_TRAFFIC)
    ]


def groups_body(policy: Policy, cells: Iterable[ExperienceCell]) -> list[dict[str, object]]:
    """Return `status.groups`: what each tenant, or each declared value of the attribute, was given.

    Empty where the policy declares none, for then there is nothing to compare.
    """
    if policy.groups is None and (policy.tenants is None or not policy.tenants.declared):
        return []
    known = tuple(cells)
    found = tallies(known, lambda cell: cell.key.group)
    total = sum(tally.requests for tally in found.values())
    return [
        {
            "group": group,
            **_told(tally, total),
            "costPerRequest": f"{tally.cost / tally.requests:.9f}",
            "models": _models(cell for cell in known if cell.key.group == group),
        }
        for group, tally in _busiest(found, MAX_GROUPS)
    ]


def suggestions_body(
    policy: Policy, fleet: Fleet, cells: Iterable[ExperienceCell]
) -> list[dict[str, object]]:
    """Return `status.suggestions`; takes up to tenths of a second."""
    return [
        {
            "kind": found.kind.value,
            "subject": found.subject,
            **({"rule": found.subject} if found.kind is Kind.COSTLY_RULE else {}),
            "message": found.message,
            "samples": round(found.samples),
            "confidence": f"{found.confidence:.3f}",
        }
        for found in suggestions(cells, policy, fleet)
    ]


def learning_figures(view: LearningView) -> LearningFigures:
    """Return the same for metrics."""
    found = tallies(view.cells, lambda cell: cell.key.model)
    quality = {(model, PREDICTED.lower()): tally.predicted for model, tally in found.items()}
    quality |= {
        (model, FEEDBACK.lower()): tally.score for model, tally in found.items() if tally.score is not None
    }
    standing = view.standing
    return LearningFigures(
        standing=standing.verdict.value if standing is not None else "",
        samples=sum(tally.scores for tally in found.values()),
        errors={"used": standing.used_error, "base": standing.base_error} if standing is not None else {},
        calibration_error=standing.residual if standing is not None else None,
        quality=quality,
        judgement=judgement(view.cells),
    )


def _models(cells: Iterable[ExperienceCell]) -> list[dict[str, object]]:
    found = tallies(cells, lambda cell: cell.key.model)
    total = sum(tally.requests for tally in found.values())
    return [
        {"model": model, "share": _percent(tally.requests, total)}
        for model, tally in _busiest(found, MAX_MODELS_OF_GROUP)
    ]


def _busiest(found: Mapping[str, Tally], most: int) -> list[tuple[str, Tally]]:
    """Return the busiest ones in the order of names, which changes least."""
    chosen = sorted(found, key=lambda name: -found[name].requests)[:most]
    return [(name, found[name]) for name in sorted(chosen)]


def _told(tally: Tally, total: float) -> dict[str, object]:
    score = tally.score
    return {
        "requests": round(tally.requests),
        "share": _percent(tally.requests, total),
        "meanQuality": f"{tally.predicted if score is None else score:.3f}",
        "qualityFrom": PREDICTED if score is None else FEEDBACK,
        "feedback": round(tally.scores),
    }


def _percent(part: float, total: float) -> str:
    return f"{100 * part / total:.1f}%"
