"""Demand of many sidecars from cumulative reports."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.demand.columns import MAX_MODELS
from modelfleet_core.demand.meter import MOST_DIVIDED, SILENT, DemandMeter
from modelfleet_core.demand.sketch import NO_DEMAND, DemandReport
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import ModelName, ObjectKey, TierName
from support.manifests import policy_manifest
from support.sketches import GOLD, cell, offers, seen

POLICY = ObjectKey("ml", "assistant")
KNOWN = {POLICY: parse_policy(policy_manifest())}
ONE, TWO = (SidecarId("ml", name, name, "1") for name in ("one", "two"))
MATH, LARGE = cell("math/5"), ModelName("large")


def math(arrivals: float, quality: float = 0.5) -> DemandReport:
    return seen({MATH: (arrivals, offers(large=(quality, 0.01, 2.0)))})


def rate(meter: DemandMeter, now: float, *sidecars: SidecarId) -> float:
    return sum(found.rate for found in meter.classes(dict.fromkeys(sidecars, POLICY), KNOWN, now))


def test_a_steady_rate_is_found_at_once_and_kept() -> None:
    meter = DemandMeter()
    for second in range(30):
        meter.hear(ONE, math(100 + 4 * second), second)
        if second:
            assert rate(meter, second, ONE) == pytest.approx(4)


def test_what_was_counted_before_the_first_report_is_no_demand() -> None:
    meter = DemandMeter()
    meter.hear(ONE, math(10_000), 0)
    assert rate(meter, 0, ONE) == 0


def test_repeated_and_lost_reports_change_no_sum() -> None:
    meter, lossy = DemandMeter(), DemandMeter()
    for second in range(61):
        meter.hear(ONE, math(4 * second), second)
        if second % 5 == 0:
            lossy.hear(ONE, math(4 * second), second)
            lossy.hear(ONE, math(4 * second), second)
            lossy.hear(ONE, math(max(0, 4 * second - 8)), second)
    assert rate(lossy, 60, ONE) == pytest.approx(rate(meter, 60, ONE))


def test_demand_fades_when_arrivals_end_and_cells_that_rest_are_left_out() -> None:
    meter = DemandMeter()
    for second in range(10):
        meter.hear(ONE, math(4 * second), second)
    for second in range(10, 60):
        meter.hear(ONE, NO_DEMAND, second)
        rate(meter, second, ONE)
    assert 0 < rate(meter, 60, ONE) < 0.3


def test_a_silent_sidecars_demand_is_held_for_a_while() -> None:
    meter = DemandMeter()
    meter.hear(ONE, math(0), 0)
    meter.hear(ONE, math(4), 1)
    assert rate(meter, 1 + SILENT, ONE) == pytest.approx(4)
    assert rate(meter, 1.1 + SILENT, ONE) == 0
    meter.hear(ONE, math(400), 100)
    assert rate(meter, 100, ONE) == 0, "it is new again"


def test_what_came_during_a_silence_is_spread_over_it() -> None:
    meter = DemandMeter()
    for second in range(20):
        meter.hear(ONE, math(4 * second), second)
        rate(meter, second, ONE)
    meter.hear(ONE, math(200), 50)
    assert rate(meter, 50, ONE) == pytest.approx(4, rel=0.02)


def test_classes_sum_sidecars_and_weigh_their_offers_by_requests() -> None:
    meter = DemandMeter()
    for sidecar, per_second, quality in ((ONE, 3, 0.4), (TWO, 1, 0.8)):
        meter.hear(sidecar, math(0, quality), 0)
        meter.hear(sidecar, math(per_second, quality), 1)
    (found,) = meter.classes({ONE: POLICY, TWO: POLICY}, KNOWN, 1)
    assert (found.policy, found.tier, found.task, found.weight) == (POLICY, GOLD, "math/5", 4)
    assert found.shed_penalty == 1.0
    assert found.rate == pytest.approx(4)
    assert found.offers[LARGE].quality == pytest.approx(0.5)
    assert found.offers[LARGE].service_time == pytest.approx(2.0)


def test_means_follow_the_requests_of_the_last_minute() -> None:
    meter = DemandMeter()
    meter.hear(ONE, math(0), 0)
    meter.hear(ONE, math(100, 0.5), 1)
    rate(meter, 1, ONE)
    both = seen({MATH: (200, offers(large=(0.7, 0.01, 2.0)))})  # sums: the newer hundred had quality .9
    meter.hear(ONE, both, 301)
    (found,) = meter.classes({ONE: POLICY}, KNOWN, 301)
    assert found.offers[LARGE].quality == pytest.approx(0.9, abs=0.01)


def test_sidecars_that_know_other_models_in_another_order_merge_by_name() -> None:
    meter = DemandMeter()
    small, large = (0.2, 0.001, 1.0), (0.8, 0.01, 2.0)
    for second in (0, 1):
        meter.hear(ONE, seen({MATH: (second, offers(small=small, large=large))}), second)
        meter.hear(TWO, seen({MATH: (second, offers(large=large, middle=(0.5, 0.0, 1.0)))}), second)
    (found,) = meter.classes({ONE: POLICY, TWO: POLICY}, KNOWN, 1)
    assert {name: offer.quality for name, offer in found.offers.items()} == {
        "small": pytest.approx(0.2),
        "large": pytest.approx(0.8),
        "middle": pytest.approx(0.5),
    }


def test_sidecars_without_policy_and_unknown_tiers_are_no_demand() -> None:
    meter = DemandMeter()
    gone = cell("math/5", TierName("platinum"))
    for second in (0, 1):
        meter.hear(ONE, seen({gone: (9 * second, {})}), second)
        meter.hear(TWO, math(9 * second), second)
    assert rate(meter, 1, ONE) == 0
    assert rate(meter, 1, ONE, TWO) == pytest.approx(9)


def test_a_sidecar_that_follows_another_policy_takes_its_demand_along() -> None:
    meter, other = DemandMeter(), ObjectKey("ml", "other")
    known = KNOWN | {other: parse_policy(policy_manifest("other"))}
    for second in (0, 1):
        meter.hear(ONE, math(6 * second), second)
    assert meter.classes({ONE: POLICY}, known, 1)[0].policy == POLICY
    (found,) = meter.classes({ONE: other}, known, 1.5)
    assert (found.policy, found.rate) == (other, pytest.approx(6))


def test_division_sees_few_classes_and_each_sidecars_rate_in_them() -> None:
    meter = DemandMeter()
    rng = np.random.default_rng(7)
    figures = {
        cell(f"task{n}/{n % 10}"): offers(large=(rng.uniform(), 0.01, 2.0), small=(rng.uniform(), 0.001, 1.0))
        for n in range(90)
    }
    for second in (0, 1):
        for sidecar, some in ((ONE, 60), (TWO, 30)):
            mine = list(figures.items())[-some:]
            meter.hear(sidecar, seen({key: (second * (n % 7), o) for n, (key, o) in enumerate(mine)}), second)
    policies = {ONE: POLICY, TWO: POLICY}
    shared = meter.shared(policies, KNOWN, 1)
    assert len(shared.classes) == MOST_DIVIDED
    assert shared.sidecars == (ONE, TWO)
    assert shared.rates.sum(axis=0) == pytest.approx([found.rate for found in shared.classes])
    assert shared.rates.sum(axis=1) == pytest.approx([sum(n % 7 for n in range(some)) for some in (60, 30)])
    assert rate(meter, 1, ONE, TWO) == pytest.approx(shared.rates.sum())


def test_many_sidecars_that_come_and_go_leave_nothing_behind() -> None:
    meter = DemandMeter()
    for round in range(30):
        now = 100.0 * round
        names = [SidecarId("ml", f"{round}-{n}", f"{round}-{n}", "1") for n in range(20)]
        for second in (0, 1):
            for name in names:
                meter.hear(name, math(3 * second), now + second)
        assert rate(meter, now + 1, *names) == pytest.approx(60)
    assert meter._rows <= 60
    assert len(meter._heard_at) <= 60


def test_cells_beyond_the_bound_of_a_policy_count_in_coarser_ones() -> None:
    meter = DemandMeter()
    everyone = {}
    for n in range(40):
        name = SidecarId("ml", str(n), str(n), "1")
        everyone[name] = POLICY
        for second in (0, 1):
            keys = [cell(f"t{n}-{k}/{k % 10}") for k in range(20)]
            meter.hear(name, seen({key: (second, offers(large=(0.5, 0.0, 1.0))) for key in keys}), second)
    assert rate(meter, 1, *everyone) == pytest.approx(800)
    assert len(meter._cells) < 400


def test_names_without_end_cost_no_memory_without_end() -> None:
    meter = DemandMeter()
    many = {f"m{n}": (0.5, 0.01, 2.0) for n in range(600)}
    for second in (0, 1):
        meter.hear(ONE, math(second), second)
        meter.hear(TWO, seen({MATH: (second, offers(**many))}), second)
    (found,) = meter.classes({ONE: POLICY, TWO: POLICY}, KNOWN, 1)
    assert found.rate == pytest.approx(2)
    assert found.offers[LARGE].quality == pytest.approx(0.5)
    assert len(found.offers) == MAX_MODELS + 1
