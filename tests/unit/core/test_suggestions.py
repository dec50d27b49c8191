"""Suggestions come from enough scores, with confidence over all that was looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_core.estimation.experience import ExperienceCell
from modelfleet_core.estimation.suggestions import RISK, Kind, Suggestion, suggestions
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_core.policy import Rule, RuleMatch
from support.experiences import cell
from support.manifests import fleet_manifest, policy_manifest

FLEET = parse_fleet(fleet_manifest())
POLICY = replace(
    parse_policy(policy_manifest()), rules=(Rule("legal", RuleMatch()), Rule("code", RuleMatch()))
)


def found(*cells: ExperienceCell) -> dict[Kind, Suggestion]:
    return {suggestion.kind: suggestion for suggestion in suggestions(cells, POLICY, FLEET)}


def test_a_model_that_another_answers_better_and_cheaper_is_named() -> None:
    said = found(
        cell("large", scores=300, mean=0.61, cost=0.004), cell("frontier", scores=300, mean=0.9, cost=0.002)
    )
    suggestion = said[Kind.DOMINATED_MODEL]
    assert suggestion.subject == "math/large"
    assert "frontier scores 0.900 at 0.002 USD" in suggestion.message
    assert suggestion.samples == 300
    assert suggestion.confidence > 0.99


def test_a_better_model_that_is_dearer_dominates_none() -> None:
    said = found(
        cell("large", scores=300, mean=0.61, cost=0.001), cell("frontier", scores=300, mean=0.9, cost=0.002)
    )
    assert Kind.DOMINATED_MODEL not in said


def test_groups_count_together_and_too_few_scores_say_nothing() -> None:
    parts = [cell("large", scores=45, mean=0.2, group=group) for group in ("a", "b")]
    assert not found(*parts)
    assert Kind.WRONG_PRIOR in found(*parts, cell("large", scores=45, mean=0.2))


@pytest.mark.parametrize(("mean", "wrong"), [(0.30, True), (0.61, False), (0.64, False), (0.95, True)])
def test_a_prior_is_wrong_when_scores_are_clearly_elsewhere(mean: float, wrong: bool) -> None:
    said = found(cell("large", scores=400, mean=mean))
    assert (Kind.WRONG_PRIOR in said) is wrong
    if wrong:
        assert "quality.byTask.math says 0.610" in said[Kind.WRONG_PRIOR].message


def test_a_prior_without_a_figure_for_the_task_is_named_as_such() -> None:
    said = found(cell("large", scores=400, mean=0.3, task="chat"))
    assert "quality.prior says 0.740" in said[Kind.WRONG_PRIOR].message


@pytest.mark.parametrize(
    ("score", "cost", "named"), [(0.58, 0.01, True), (0.85, 0.01, False), (0.58, 0.001, False)]
)
def test_a_rule_is_costly_when_it_costs_more_and_gains_nothing(
    score: float, cost: float, named: bool
) -> None:
    said = found(
        cell("large", scores=2000, mean=score, cost=cost, rule="legal"),
        cell("large", scores=2000, mean=0.61, cost=0.001),
    )
    assert (Kind.COSTLY_RULE in said) is named
    if named:
        assert "rule legal cost 0.01 USD each, others of the same tasks 0.001 USD" in (
            said[Kind.COSTLY_RULE].message
        )


def test_a_rule_is_compared_with_the_same_tasks_only() -> None:
    assert Kind.COSTLY_RULE not in found(
        cell("large", scores=2000, mean=0.61, cost=0.01, rule="legal", task="law"),
        cell("large", scores=2000, mean=0.61, cost=0.001, task="math"),
    )


def test_models_that_left_the_fleet_and_rules_that_are_gone_are_not_named() -> None:
    assert not found(
        cell("gone", scores=2000, mean=0.1, cost=0.01),
        cell("large", scores=2000, mean=0.61, cost=0.01, rule="gone"),
    )


def test_certain_scores_do_not_divide_by_zero() -> None:
    said = found(cell("large", scores=200, mean=1.0), cell("frontier", scores=200, mean=1.0))
    assert Kind.DOMINATED_MODEL not in said


def test_where_nothing_is_amiss_hardly_anything_is_said() -> None:
    """1,000 draws of 2 models x 6 tasks x 2 rules, all as the manifest says and alike in cost and score."""
    alarms, rng = 0, np.random.default_rng(0)
    fleet = replace(
        FLEET,
        models=tuple(replace(m, quality=replace(m.quality, prior=0.7, by_task={})) for m in FLEET.models),
    )
    for _ in range(1000):
        cells = [
            cell(model, scores=150, mean=rng.binomial(150, 0.7) / 150, task=f"t{task}", rule=rule, cost=cost)
            for model in ("large", "frontier")
            for task in range(6)
            for rule, cost in (("", 0.001), ("legal", 0.001 * rng.uniform(0.5, 1.5)))
        ]
        alarms += bool(suggestions(cells, POLICY, fleet))
    assert alarms <= 1000 * RISK


def test_what_is_said_is_bounded() -> None:
    cells = [cell("large", scores=500, mean=0.1, task=f"t{number}") for number in range(50)]
    assert len(suggestions(cells, POLICY, FLEET)) == 20
