"""A policy's status tells where estimates come from, how they hold, and what each model and group got."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from modelfleet_core.estimation.drift import Standing, Verdict
from modelfleet_core.estimation.experience import ExperienceCell
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.messages import Document
from modelfleet_core.manifests import parse_policy
from modelfleet_core.policy import EstimatorChoice, Groups, Learning, Tenant, Tenants
from modelfleet_core.values import ModelName
from modelfleet_operator.conditions import Verdict as Truth
from modelfleet_operator.estimators import Base, Fault
from modelfleet_operator.insight import (
    MAX_MODELS_OF_GROUP,
    estimator_body,
    estimator_condition,
    groups_body,
    learning_figures,
    traffic_body,
)
from modelfleet_operator.learning import LearningView
from support.manifests import policy_manifest
from support.scored_answers import log_of

POLICY = parse_policy(policy_manifest())
TRAINED = replace(POLICY, estimator=EstimatorChoice("chat-estimator"))
BASE = Base(Document("b1", b"npz"))
FAULT = Fault("Invalid", "estimator.npz is refused")
STEADY = Standing(Verdict.STEADY, 50.0, 0.1, 0.2, -0.0312)


def _view(
    base: Base = BASE, learned: str = "", verdict: Verdict = Verdict.STEADY, problem: str = ""
) -> LearningView:
    return LearningView(base, learned, replace(STEADY, verdict=verdict), (), problem)


@pytest.mark.parametrize(
    ("view", "truth", "reason"),
    [
        (None, Truth.UNKNOWN, "NotInForce"),
        (_view(Base(None, Fault("NotRead", "not yet"))), Truth.UNKNOWN, "NotRead"),
        (_view(Base(None, FAULT)), Truth.FALSE, "Invalid"),
        (_view(Base(BASE.document, FAULT), "l1"), Truth.FALSE, "Invalid"),
        (_view(), Truth.TRUE, "Loaded"),
        (_view(learned="l1"), Truth.TRUE, "Learned"),
        (_view(learned="l1", verdict=Verdict.DRIFT), Truth.TRUE, "Drifting"),
        (_view(verdict=Verdict.ROLLED_BACK), Truth.TRUE, "RolledBack"),
    ],
)
def test_a_condition_tells_where_estimates_come_from(
    view: LearningView | None, truth: Truth, reason: str
) -> None:
    condition = estimator_condition(TRAINED, view)
    assert (condition.verdict, condition.reason) == (truth, reason)


def test_until_it_is_known_what_was_learned_nothing_is_said() -> None:
    view = replace(_view(problem="no answer"), standing=None)
    condition = estimator_condition(TRAINED, view)
    assert (condition.verdict, condition.reason) == (Truth.UNKNOWN, "NotRead")
    assert "no answer" in condition.message
    silent = replace(TRAINED, learning=Learning(enabled=False))
    assert estimator_condition(silent, replace(_view(), standing=None)).reason == "Loaded"


def test_without_a_trained_estimator_estimates_start_from_the_priors() -> None:
    condition = estimator_condition(POLICY, _view(Base(NO_DOCUMENT)))
    assert condition.reason == "Priors"
    silent = estimator_condition(replace(POLICY, learning=Learning(enabled=False)), _view(Base(NO_DOCUMENT)))
    assert silent.message.endswith("do not learn")


def test_sidecars_that_have_no_good_file_go_on_with_what_they_have() -> None:
    assert (
        "go on with the estimates that they have"
        in estimator_condition(TRAINED, _view(Base(None, FAULT))).message
    )


def test_models_that_were_not_trained_and_what_is_not_kept_are_told() -> None:
    base = replace(BASE, strangers=(ModelName("newest"),))
    message = estimator_condition(TRAINED, _view(base, problem="no space left")).message
    assert "trained without newest" in message
    assert "not kept: no space left" in message


def test_how_estimates_hold_is_told_in_figures() -> None:
    view = replace(
        _view(learned="l1", verdict=Verdict.DRIFT), cells=log_of("large", 1.0, answers=7).changes().cells
    )
    assert estimator_body(view) == {
        "version": "b1",
        "learnedVersion": "l1",
        "samples": 7,
        "drift": True,
        "rolledBack": False,
        "calibrationError": "-0.0312",
    }


def _cells(*logs: tuple[str, float, int, str, float]) -> tuple[ExperienceCell, ...]:
    """Return cells of (model, score, answers, group, USD per answer)."""
    return tuple(
        cell
        for model, score, answers, group, cost in logs
        for cell in log_of(model, score, answers=answers, group=group, cost=cost).changes().cells
    )


def test_traffic_tells_scores_where_there_are_some_and_predictions_where_not() -> None:
    cells = _cells(("large", 0.9, 30, "acme", 0.01), ("large", 0.6, 30, "", 0.01), ("small", 1.0, 5, "", 0.0))
    assert traffic_body(cells) == [
        {
            "model": "large",
            "requests": 60,
            "share": "92.3%",
            "meanQuality": "0.750",
            "qualityFrom": "Feedback",
            "feedback": 60,
            "spent": "0.600000",
        },
        {
            "model": "small",
            "requests": 5,
            "share": "7.7%",
            "meanQuality": "0.500",
            "qualityFrom": "Predicted",
            "feedback": 5,
            "spent": "0.000000",
        },
    ]


def test_groups_tell_who_was_given_what() -> None:
    policy = replace(POLICY, groups=Groups("x-region", ("north", "south")))
    cells = _cells(("large", 0.9, 30, "north", 0.01), ("small", 0.4, 60, "south", 0.001))
    north, south = groups_body(policy, cells)
    assert (north["group"], north["meanQuality"], north["costPerRequest"]) == (
        "north",
        "0.900",
        "0.010000000",
    )
    assert (south["group"], south["share"], south["models"]) == (
        "south",
        "66.7%",
        [{"model": "small", "share": "100.0%"}],
    )
    assert groups_body(POLICY, cells) == [], "nothing is declared to compare"


def test_callers_that_declare_nothing_are_a_group_of_their_own_beside_tenants() -> None:
    tenants = replace(POLICY, tenants=Tenants("x-tenant", (Tenant("acme", Decimal("0.4")),)))
    cells = _cells(
        ("large", 0.9, 10, "acme", 0.01), ("large", 0.5, 10, "", 0.01), ("small", 0.5, 20, "", 0.001)
    )
    nobody, acme = groups_body(tenants, cells)
    assert (nobody["group"], nobody["share"], nobody["meanQuality"]) == ("", "75.0%", "0.500")
    assert (nobody["costPerRequest"], nobody["feedback"]) == ("0.004000000", 30)
    assert nobody["models"] == [{"model": "large", "share": "33.3%"}, {"model": "small", "share": "66.7%"}]
    assert (acme["group"], acme["share"], acme["costPerRequest"]) == ("acme", "25.0%", "0.010000000")


def test_metrics_tell_the_same_as_the_status() -> None:
    cells = _cells(("large", 0.9, 30, "", 0.01), ("small", 0.4, 5, "", 0.0))
    figures = learning_figures(replace(_view(verdict=Verdict.DRIFT), cells=cells))
    assert (figures.standing, figures.samples, figures.calibration_error) == ("Drift", 35.0, -0.0312)
    assert figures.errors == {"used": 0.1, "base": 0.2}
    assert figures.quality == {
        ("large", "predicted"): pytest.approx(0.5),
        ("large", "feedback"): pytest.approx(0.9),
        ("small", "predicted"): pytest.approx(0.5),
    }


def test_what_a_status_lists_is_bounded() -> None:
    models = [(f"m{number:03}", 0.5, number + 1, "north", 0.0) for number in range(70)]
    cells = _cells(*models)
    assert [entry["model"] for entry in traffic_body(cells)] == [f"m{number:03}" for number in range(6, 70)]
    (group,) = groups_body(replace(POLICY, groups=Groups("x-region", ("north",))), cells)
    listed = group["models"]
    assert isinstance(listed, list)
    assert len(listed) == MAX_MODELS_OF_GROUP
    assert {entry["model"] for entry in listed} == {f"m{number:03}" for number in range(62, 70)}
    assert traffic_body(()) == []
