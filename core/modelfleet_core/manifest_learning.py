"""Stage spec: where a policy's estimates come from, what is learned from answers, and who judges them.

In: `spec.estimator`, `spec.learning` and `spec.judge` of a RoutingPolicy. Out: typed values, or one
`SpecError`. Only `manifest_policy` calls.
"""

from __future__ import annotations

import re
from decimal import Decimal

from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fields import (
    MAX_MONEY,
    MODEL_NAME,
    MODEL_RULE,
    OBJECT_NAME,
    OBJECT_RULE,
    Fields,
)
from modelfleet_core.policy import EstimatorChoice, Judge, Learning, Period
from modelfleet_core.values import ModelName, NanoUsd, nano_usd

MAX_EXPLORATION = Decimal("0.05")
MAX_KAPPA = 9
CALIBRATED = "auto"
PLUGIN = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?)?")
PLUGIN_RULE = "the name of an entry point of the group modelfleet.judges"


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


def read_judge(spec: Fields, learning: Learning) -> Judge | None:
    if not spec.has("judge"):
        spec.child("judge")
        return None
    fields = spec.child("judge")
    plugin = fields.text("plugin", pattern=PLUGIN, rule=PLUGIN_RULE, default="", longest=128)
    if fields.has("model") == bool(plugin):
        problem = "has both model and plugin" if plugin else "has neither model nor plugin"
        raise SpecError(fields.path, problem, "write exactly one of them")
    if not learning.enabled:
        problem = "is set although learning is off, so that nobody would hear its scores"
        raise SpecError(fields.path, problem, "remove it or set learning.enabled to true")
    share = float(fields.fraction("share"))
    if plugin:
        if fields.has("budget"):
            problem = "is set although a plug-in costs nothing that could be counted"
            raise SpecError(fields.at("budget"), problem, "remove it")
        return Judge(share, plugin=plugin)
    budget = fields.child("budget")
    return Judge(
        share,
        model=ModelName(fields.text("model", pattern=MODEL_NAME, rule=MODEL_RULE, longest=128)),
        limit=NanoUsd(nano_usd(budget.decimal("limit", most=MAX_MONEY))),
        period=Period(budget.choice("period", (period.value for period in Period), Period.DAY.value)),
    )
