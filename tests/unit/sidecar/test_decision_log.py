"""Decisions are remembered up to a bound, with why each variant was or was not chosen."""

from __future__ import annotations

from array import array

import numpy as np
from modelfleet_core.assignment.result import Termination
from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.catalog import Pricing
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, VariantKey
from modelfleet_sidecar.decision import Considered, Decision, Reason
from modelfleet_sidecar.explain import DecisionLog, options
from support.sidecars import ABOUT, GROUNDS

VARIANTS = tuple(VariantKey(ModelName(name), "gpu") for name in ("a", "b", "c"))


def decision(number: int) -> Decision:
    figures = np.array(
        [[0.5, 0.9, 0.7], [1, 2, 3], [0.1, 0.2, 0.3], [0, 0, 0], [0.5, 0.9, 0.7], [0, 0.3, 0]],
        dtype=np.float64,
    )
    return Decision(
        id=f"d-{number}",
        reservation=number,
        variant=VARIANTS[2],
        served_name="c",
        endpoint=EndpointUrl("http://127.0.0.1:1"),
        slot=EndpointUrl("http://127.0.0.1:1"),
        tier="bronze",
        task="chat",
        rule="",
        about=ABOUT,
        reason=Reason.SLOTS_BIND,
        quality=0.7,
        expected_cost=NanoUsd(1),
        reserved=NanoUsd(2),
        pricing=Pricing(1, 1),
        max_output_tokens=10,
        input_tokens=5,
        prompt_bound=40,
        template_tokens=96,
        settle_within=None,
        considered=Considered(
            VARIANTS,
            array("d", [*figures.ravel().tolist(), *[0.0] * 9]),
            0.0,
            ("", "NoFreeSlot", ""),
            ("", "NoFreeSlot", ""),
        ),
        grounds=GROUNDS,
        certificate=Certificate(0.7, 0.7, 0.0, Termination.OPTIMAL, (), 0.001),
        batch_size=1,
        waited=0.0,
    )


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
