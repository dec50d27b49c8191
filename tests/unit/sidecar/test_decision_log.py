"""Decisions are remembered up to a bound, with why each variant was or was not chosen."""

from __future__ import annotations

from modelfleet_core.values import NanoUsd
from modelfleet_sidecar.explain import DecisionLog, options
from support.decisions import VARIANTS, decision


def settled(log: DecisionLog, number: int) -> None:
    log.add(decision(number))
    log.settled(f"d-{number}", NanoUsd(number))


def test_a_decision_that_is_not_settled_is_not_forgotten() -> None:
    """Or its caller could not settle it any more, and its slot would wait for its time to run out."""
    log = DecisionLog(kept=2)
    log.add(decision(100))
    for number in range(5):
        settled(log, number)
    assert log.find("d-100") is not None
    log.settled("d-100", NanoUsd(7))
    assert (entry := log.find("d-100")) is not None
    assert entry.cost == 7
    assert len(log) == 2


def test_decisions_among_many_variants_are_fewer() -> None:
    log = DecisionLog(kept=100, variants=3 * len(VARIANTS))
    for number in range(5):
        settled(log, number)
    assert len(log) == 3
    log = DecisionLog(kept=100, variants=1)
    settled(log, 1)
    assert log.find("d-1") is not None


def test_the_last_ten_thousand_decisions_are_remembered() -> None:
    log = DecisionLog()
    for number in range(10_002):
        settled(log, number)
    assert len(log) == 10_000
    assert log.find("d-1") is None
    assert log.find("d-2") is not None


def test_the_oldest_decisions_are_forgotten_first() -> None:
    log = DecisionLog(kept=3)
    for number in range(5):
        settled(log, number)
    assert len(log) == 3
    assert log.find("d-1") is None
    assert log.find("d-4") is not None


def test_a_settlement_is_remembered_with_its_decision() -> None:
    log = DecisionLog(kept=1)
    log.add(decision(1))
    log.settled("d-1", NanoUsd(7))
    log.settled("d-9", NanoUsd(7))
    entry = log.find("d-1")
    assert entry is not None
    assert entry.cost == 7


def test_what_could_be_chosen_is_shown_first_and_best_first() -> None:
    listed = options(decision(1))
    assert [option.variant.model for option in listed] == ["c", "a", "b"]
    assert listed[-1].excluded_by == "NoFreeSlot"
