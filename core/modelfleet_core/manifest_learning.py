"""Stage spec: where a policy's estimates come from, and what is learned from answers.

In: `spec.estimator` and `spec.learning` of a RoutingPolicy. Out: typed values, or one `SpecError`. Only
`manifest_policy` calls.
"""

from __future__ import annotations

from decimal import Decimal

from modelfleet_core.manifest_fields import OBJECT_NAME, OBJECT_RULE, Fields
from modelfleet_core.policy import EstimatorChoice, Learning

MAX_EXPLORATION = Decimal("0.05")
MAX_KAPPA = 9
CALIBRATED = "auto"


def read_estimator(fields: Fields) -> EstimatorChoice:
    kappa = fields.decimal_or("kappa", CALIBRATED, most=MAX_KAPPA)
    ref = fields.child("ref")
    return EstimatorChoice(
        ref=ref.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE) if fields.has("ref") else None,
        min_confidence=float(fields.decimal("minConfidence", most=1, default="0")),
        kappa=None if kappa is None else float(kappa),
    )


def read_learning(fields: Fields) -> Learning:
    return Learning(
        enabled=fields.boolean("enabled", default=True),
        exploration=float(fields.fraction("exploration", most=MAX_EXPLORATION, default="0%")),
        half_life=fields.duration("halfLife", default="168h", least="1h"),
    )
