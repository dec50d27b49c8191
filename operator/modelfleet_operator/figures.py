"""Serves stage status: what the operator decided and sees, as figures for metrics.

In: the newest figures of each fleet and policy. Out: Prometheus families, made when they are scraped, so that
a deleted object leaves no figure behind. Next: `telemetry` serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelfleet_core.estimation.drift import Verdict
from modelfleet_core.values import ObjectKey, PoolName, VariantKey
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelfleet_operator.cluster import Kind
from modelfleet_operator.conditions import Condition
from modelfleet_operator.judgement import Judgement
from modelfleet_operator.planning import Basis


@dataclass(frozen=True, slots=True)
class VariantFigures:
    current: int = 0
    desired: int = 0
    ready: int = 0
    terminating: int = 0
    draining: int = 0
    slots: int = 0
    leased: int = 0
    over: int = 0
    """Slots leased at an endpoint beyond those it has."""
    slot_price: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolFigures:
    planned: int
    occupied: int
    limit: int
    stock: int
    price: float


@dataclass(frozen=True, slots=True)
class FleetFigures:
    variants: Mapping[VariantKey, VariantFigures]
    pools: Mapping[PoolName, PoolFigures]
    hourly_cost: float
    hourly_budget: float | None
    gap: float
    solve_seconds: float
    demand: float
    """Requests per second."""
    sidecars: int
    silent: int
    basis: str
    ready: bool


@dataclass(frozen=True, slots=True)
class LearningFigures:
    standing: str
    """A `Verdict`; empty: nothing is learned."""
    samples: float
    errors: Mapping[str, float]
    calibration_error: float | None
    quality: Mapping[tuple[str, str], float]
    """By model and whose word it is."""
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    limit: float | None
    granted: float
    spent: float
    sidecars: int
    ready: bool
    learning: LearningFigures | None = None


class Figures(Collector):
    """The newest figures of everything; `collect` is what prometheus-client calls."""

    def __init__(self) -> None:
        self.fleets: dict[ObjectKey, FleetFigures] = {}
        self.policies: dict[ObjectKey, PolicyFigures] = {}
        self._conditions: dict[tuple[Kind, ObjectKey], Sequence[Condition]] = {}

    def stand(self, kind: Kind, key: ObjectKey, conditions: Sequence[Condition]) -> None:
        """Take the conditions that an object has now; none: it is gone."""
        if conditions:
            self._conditions[kind, key] = tuple(conditions)
        else:
            self._conditions.pop((kind, key), None)

    def collect(self) -> Iterable[Metric]:
        fleets, policies, standing = dict(self.fleets), dict(self.policies), dict(self._conditions)
        for name, text, state in _VARIANT_GAUGES:
            yield _family(
                f"modelfleet_{name}",
                text,
                ("namespace", "fleet", "model", "variant", "state"),
                [
                    (_of(key, variant.model, variant.variant, label), float(read(found)))
                    for key, fleet in fleets.items()
                    for variant, found in fleet.variants.items()
                    for label, read in state.items()
                ],
            )
        yield _family(
            "modelfleet_pool_gpus",
            "GPUs of a pool.",
            ("namespace", "fleet", "pool", "state"),
            [
                (_of(key, pool, label), float(value))
                for key, fleet in fleets.items()
                for pool, found in fleet.pools.items()
                for label, value in (
                    ("planned", found.planned),
                    ("occupied", found.occupied),
                    ("limit", found.limit),
                    ("stock", found.stock),
                )
            ],
        )
        yield _family(
            "modelfleet_gpu_price",
            "Weighted quality per second that one more GPU of the pool is worth.",
            ("namespace", "fleet", "pool"),
            [
                (_of(k, pool), found.price)
                for k, fleet in fleets.items()
                for pool, found in fleet.pools.items()
            ],
        )
        yield _family(
            "modelfleet_plan_basis",
            "1 for what the present plan of a fleet rests on, else 0.",
            ("namespace", "fleet", "basis"),
            [
                (_of(key, basis.value), float(fleet.basis == basis.value))
                for key, fleet in fleets.items()
                for basis in Basis
            ],
        )
        for kind, label in ((Kind.FLEET, "fleet"), (Kind.POLICY, "policy")):
            yield _family(
                f"modelfleet_{label}_condition",
                f"1 while a condition of the {label}'s status is True, 0 while it is False or Unknown.",
                ("namespace", label, "condition"),
                [
                    (_of(key, condition.type), float(condition.holds))
                    for (of, key), conditions in standing.items()
                    if of is kind
                    for condition in conditions
                ],
            )
        for name, text, fleet_value in _FLEET_GAUGES:
            values = [(_of(key), fleet_value(fleet)) for key, fleet in fleets.items()]
            yield _family(f"modelfleet_{name}", text, ("namespace", "fleet"), _present(values))
        for name, text, policy_value in _POLICY_GAUGES:
            values = [(_of(key), policy_value(policy)) for key, policy in policies.items()]
            yield _family(f"modelfleet_{name}", text, ("namespace", "policy"), _present(values))
        yield from _learning(policies)


def _learning(policies: Mapping[ObjectKey, PolicyFigures]) -> Iterable[Metric]:
    learning = {key: policy.learning for key, policy in policies.items() if policy.learning is not None}
    yield _family(
        "modelfleet_estimator_standing",
        "1 for how a policy's estimates stand against scores, else 0.",
        ("namespace", "policy", "standing"),
        [
            (_of(key, verdict.value), float(found.standing == verdict.value))
            for key, found in learning.items()
            for verdict in Verdict
        ],
    )
    yield _family(
        "modelfleet_estimator_samples",
        "Scores from feedback behind a policy's estimates; older ones count less.",
        ("namespace", "policy"),
        [(_of(key), found.samples) for key, found in learning.items()],
    )
    yield _family(
        "modelfleet_estimator_error",
        "Mean squared error of recent estimates against scores.",
        ("namespace", "policy", "estimate"),
        [
            (_of(key, estimate), error)
            for key, found in learning.items()
            for estimate, error in found.errors.items()
        ],
    )
    yield _family(
        "modelfleet_estimator_calibration_error",
        "Mean of recent scores less the estimates that routing went by.",
        ("namespace", "policy"),
        _present((_of(key), found.calibration_error) for key, found in learning.items()),
    )
    yield _family(
        "modelfleet_model_quality",
        "Mean quality of a model's answers lately, 0 to 1.",
        ("namespace", "policy", "model", "source"),
        [
            (_of(key, model, source), quality)
            for key, found in learning.items()
            for (model, source), quality in found.quality.items()
        ],
    )
    judged = {key: found.judgement for key, found in learning.items() if found.judgement.scored}
    for name, text, value in _JUDGE_GAUGES:
        values = [(_of(key), value(found)) for key, found in judged.items()]
        yield _family(f"modelfleet_judge_{name}", text, ("namespace", "policy"), _present(values))


_VARIANT_GAUGES: tuple[tuple[str, str, Mapping[str, Callable[[VariantFigures], float]]], ...] = (
    (
        "replicas",
        "Replicas of a variant.",
        {
            "current": lambda found: found.current,
            "desired": lambda found: found.desired,
            "ready": lambda found: found.ready,
            "terminating": lambda found: found.terminating,
            "draining": lambda found: found.draining,
        },
    ),
    (
        "slots",
        "Slots of a variant: requests that its ready endpoints may serve at once.",
        {
            "live": lambda found: found.slots,
            "leased": lambda found: found.leased,
            "over": lambda found: found.over,
        },
    ),
    (
        "slot_price",
        "Weighted quality that one second of a slot is worth.",
        {"published": lambda found: found.slot_price},
    ),
)

_JUDGE_GAUGES: tuple[tuple[str, str, Callable[[Judgement], float | None]], ...] = (
    ("scored", "Answers that a policy's judge scored; older ones count less.", lambda found: found.scored),
    ("mean_score", "Mean of the judge's scores lately, 0 to 1.", lambda found: found.mean),
    (
        "agreement",
        "Share of the answers that judge and user scored on which both said good, or both bad.",
        lambda found: found.agreement,
    ),
    ("kappa", "The same above chance, as Cohen's kappa; 0: no better.", lambda found: found.kappa),
)

_FLEET_GAUGES: tuple[tuple[str, str, Callable[[FleetFigures], float | None]], ...] = (
    ("hourly_cost_usd", "USD per hour of the plan.", lambda found: found.hourly_cost),
    (
        "hourly_budget_usd",
        "USD per hour that no plan exceeds; absent: no budget.",
        lambda found: found.hourly_budget,
    ),
    ("plan_gap", "Part of the bound that the plan may miss, from 0 to 1.", lambda found: found.gap),
    ("plan_seconds", "Seconds that the last solution took.", lambda found: found.solve_seconds),
    ("demand_requests_per_second", "Requests per second that sidecars report.", lambda found: found.demand),
    ("fleet_sidecars", "Sidecars of the fleet that are connected.", lambda found: found.sidecars),
    (
        "fleet_silent_sidecars",
        "Sidecars that reported demand and have not for a minute, though their pods exist.",
        lambda found: found.silent,
    ),
    ("fleet_ready", "1 while the fleet's condition Ready holds.", lambda found: found.ready),
)

_POLICY_GAUGES: tuple[tuple[str, str, Callable[[PolicyFigures], float | None]], ...] = (
    ("budget_limit_usd", "Limit of the present period in USD; absent: no budget.", lambda found: found.limit),
    (
        "budget_granted_usd",
        "USD spent in the present period or still in sidecars' hands, at most.",
        lambda found: found.granted,
    ),
    ("budget_spent_usd", "USD spent in the present period.", lambda found: found.spent),
    ("policy_sidecars", "Connected sidecars that follow the policy.", lambda found: found.sidecars),
    ("policy_ready", "1 while the policy's condition Ready holds.", lambda found: found.ready),
)


def _of(key: ObjectKey, *labels: str) -> tuple[str, ...]:
    return (key.namespace, key.name, *labels)


def _present(
    values: Iterable[tuple[tuple[str, ...], float | None]],
) -> list[tuple[tuple[str, ...], float]]:
    return [(labels, float(value)) for labels, value in values if value is not None]


def _family(
    name: str, text: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for found, value in values:
        family.add_metric(found, value)
    return family
