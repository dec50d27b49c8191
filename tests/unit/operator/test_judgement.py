"""A policy's status tells what its judge scored, what that cost, and how far it agrees with users."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from modelfleet_core.estimation.experience import ExperienceCell
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.accounts import JUDGE
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.ledger import budget_period
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.policy import Judge, Period
from modelfleet_core.values import ModelName, NanoUsd
from modelfleet_operator.capacity_views import Usage, usage
from modelfleet_operator.estimators import Base
from modelfleet_operator.figures import Figures, PolicyFigures
from modelfleet_operator.insight import learning_figures
from modelfleet_operator.judgement import Judgement, judge_body, judgement
from modelfleet_operator.learning import LearningView
from modelfleet_operator.policies import policy_body
from support.manifests import policy_manifest
from support.scored_answers import answer, key

POLICY = replace(
    parse_policy(policy_manifest()), judge=Judge(0.02, model=ModelName("large"), limit=NanoUsd(5 * 10**9))
)


def cells(*said: tuple[float, float, int]) -> tuple[ExperienceCell, ...]:
    """Return what is counted of answers that got a user's score and a judge's, each pair so many times."""
    log = ExperienceLog()
    for user, judge, times in said:
        for _ in range(times):
            log.answered(key("small"), 0.5, 0.001)
            log.scored(answer("small"), user)
            log.judged(answer("small"), judge)
            log.compared(key("small"), user, judge)
    return tuple(log.changes().cells)


def test_kappa_is_agreement_above_chance() -> None:
    # 20 both good, 5 only the user, 10 only the judge, 15 both bad: observed 0.7, by chance 0.5.
    found = judgement(cells((1.0, 0.8, 20), (0.9, 0.1, 5), (0.2, 0.6, 10), (0.0, 0.3, 15)))
    assert (found.scored, found.both) == (50.0, 50.0)
    assert found.agreement == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.mean == pytest.approx((20 * 0.8 + 5 * 0.1 + 10 * 0.6 + 15 * 0.3) / 50)
    assert found.users_mean == pytest.approx((20 + 4.5 + 2) / 50)


def test_kappa_is_below_0_where_they_disagree_and_none_where_both_always_say_the_same() -> None:
    opposed = judgement(cells((0.0, 1.0, 10), (1.0, 0.0, 10)))
    assert (opposed.agreement, opposed.kappa) == (0.0, pytest.approx(-1.0))
    always = judgement(cells((1.0, 1.0, 20)))
    assert (always.agreement, always.kappa) == (1.0, None)


def test_of_few_answers_only_their_number_is_told() -> None:
    assert judge_body(judgement(cells((1.0, 1.0, 9)))) == {"scored": 9, "compared": 9}
    assert judge_body(judgement(())) == {"scored": 0, "compared": 0}


def test_the_status_shows_the_judge_and_its_own_money_where_the_policy_has_one() -> None:
    known = LearningView(Base(None), "", None, cells((1.0, 1.0, 30), (0.0, 0.0, 10)), "")
    at = budget_period(POLICY.key, Period.DAY, datetime(2026, 11, 22, tzinfo=UTC))
    money = Usage(at.id, at.starts, at.ends, NanoUsd(5 * 10**9), NanoUsd(2), NanoUsd(1))
    body = policy_body(None, 1, POLICY, known, (), money)
    assert body["judge"] == {
        "scored": 40,
        "compared": 40,
        "meanScore": "0.750",
        "usersMeanScore": "0.750",
        "agreement": "1.000",
        "kappa": "1.000",
        "limit": "5",
        "spent": "0.000000001",
        "resetsAt": "2026-11-23T00:00:00Z",
    }
    assert "judge" not in policy_body(None, 1, replace(POLICY, judge=None), known, ())


def test_metrics_show_what_can_be_told() -> None:
    figures = Figures()
    known = LearningView(Base(None), "", None, cells((1.0, 1.0, 20)), "")
    figures.policies[POLICY.key] = PolicyFigures(None, 0.0, 0.0, 1, True, learning_figures(known))
    shown = {
        family.name: [sample.value for sample in family.samples]
        for family in figures.collect()
        if family.name.startswith("modelfleet_judge")
    }
    assert shown == {
        "modelfleet_judge_scored": [20.0],
        "modelfleet_judge_mean_score": [1.0],
        "modelfleet_judge_agreement": [1.0],
        "modelfleet_judge_kappa": [],
    }


def test_without_any_score_there_is_nothing_to_tell() -> None:
    assert judgement(()) == Judgement(0.0, None, None, 0.0, None, None)


def test_the_judges_money_is_told_from_its_own_account_and_period() -> None:
    manifest = policy_manifest()
    manifest["spec"]["judge"] = {"model": "large", "share": "2%", "budget": {"limit": "5", "period": "Week"}}
    policy = parse_policy(manifest)
    documents = Documents({}, {policy.key: (policy, document(manifest))})
    book = LeaseBook(epoch=1, ttl=30.0, now=0.0, may_hold=())
    book.set_documents(documents)
    assert usage(book, documents, policy.key, JUDGE) is None
    for named, period in book.unopened(datetime(2026, 11, 25, 12, tzinfo=UTC)):
        book.open(named, period, None, 0.0)
    judge, budget = usage(book, documents, policy.key, JUDGE), usage(book, documents, policy.key)
    assert judge is not None
    assert budget is not None
    assert (judge.limit, judge.spent, judge.ends) == (5 * 10**9, 0, datetime(2026, 11, 30, tzinfo=UTC))
    assert (budget.limit, budget.ends) == (60 * 10**9, datetime(2026, 11, 25, 13, tzinfo=UTC))
