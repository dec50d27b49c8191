"""Who stays within its share does not pay for what one caller's crowd makes scarce."""

from __future__ import annotations

import pytest
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.placing import Placer
from modelfleet_core.values import ModelName, NanoUsd, TierName, VariantKey
from support.holdings import granted

BIG = VariantKey(ModelName("big"), "gpu")
CALM, SCARCE = 0.01, 0.2


def one(caller: str) -> Candidate:
    return Candidate(
        variants=(BIG,),
        tier=TierName("t"),
        weight=1.0,
        shed_penalty=0.5,
        arrived=0.0,
        deadline=60.0,
        longest=60.0,
        quality=(0.8,),
        cost=(0.0,),
        service_time=(1.0,),
        reserve=(NanoUsd(0),),
        excluded_by=("",),
        caller=caller,
    )


@pytest.fixture
def crowded() -> Placer:
    """Who is `hot` takes most of ten slots from second 1 on, when prices rise."""
    placer = Placer(granted({BIG: 10}))
    placer.set_prices({BIG: CALM}, 0.0)
    placer.turns.took("calm", BIG, 5.0, 0.0)
    assert placer.slot_prices([one("calm")], 0.0) == (CALM,)
    placer.set_prices({BIG: SCARCE}, 0.0)
    placer.turns.took("hot", BIG, 80.0, 1.0)
    return placer


def test_others_pay_what_they_paid_before_one_crowded(crowded: Placer) -> None:
    assert crowded.slot_prices([one("calm")], 1.1) == (CALM,)
    assert crowded.slot_prices([one("new")], 1.1) == (CALM,)
    assert crowded.slot_prices([one("hot"), one("calm")], 1.1) == (CALM,)


def test_who_crowds_pays_the_price_that_it_makes(crowded: Placer) -> None:
    assert crowded.slot_prices([one("hot")], 1.1) == (SCARCE,)


def test_a_price_that_falls_meanwhile_falls_for_all(crowded: Placer) -> None:
    crowded.set_prices({BIG: CALM / 2}, 0.0)
    assert crowded.slot_prices([one("calm")], 1.1) == (CALM / 2,)


def test_once_nobody_crowds_any_more_all_pay_alike(crowded: Placer) -> None:
    assert crowded.slot_prices([one("calm")], 100.0) == (SCARCE,)


def test_one_caller_alone_always_pays_what_is_published() -> None:
    placer = Placer(granted({BIG: 10}))
    placer.turns.took("alone", BIG, 500.0, 0.0)
    placer.set_prices({BIG: SCARCE}, 0.0)
    assert placer.slot_prices([one("alone")], 0.1) == (SCARCE,)
