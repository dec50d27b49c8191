"""Smoothed demand from cumulative reports."""

from __future__ import annotations

import pytest
from modelfleet_core.demand import ModelOffer
from modelfleet_core.leasing.messages import ClassDemand, SidecarId
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName
from modelfleet_operator.demand import SILENT, DemandMeter
from support.manifests import policy_manifest

POLICY = ObjectKey("ml", "assistant")
KNOWN = {POLICY: parse_policy(policy_manifest())}
ONE, TWO = (SidecarId("ml", name, name, "1") for name in ("one", "two"))
GOLD, MATH, LARGE = TierName("gold"), TaskName("math"), ModelName("large")


def seen(arrivals: float, quality: float = 0.5) -> dict[tuple[TierName, TaskName], ClassDemand]:
    return {(GOLD, MATH): ClassDemand(arrivals, {LARGE: ModelOffer(quality, 0.01, 2.0)})}


def rate(meter: DemandMeter, now: float, *sidecars: SidecarId) -> float:
    return sum(found.rate for found in meter.classes(dict.fromkeys(sidecars, POLICY), KNOWN, now))


def test_a_steady_rate_is_found_at_once_and_kept() -> None:
    meter = DemandMeter()
    for second in range(30):
        meter.hear(ONE, seen(100 + 4 * second), second)
        if second:
            assert rate(meter, second, ONE) == pytest.approx(4)


def test_what_was_counted_before_the_first_report_is_no_demand() -> None:
    meter = DemandMeter()
    meter.hear(ONE, seen(10_000), 0)
    assert rate(meter, 0, ONE) == 0


def test_repeated_and_lost_reports_change_no_sum() -> None:
    meter, lossy = DemandMeter(), DemandMeter()
    for second in range(61):
        meter.hear(ONE, seen(4 * second), second)
        if second % 5 == 0:
            lossy.hear(ONE, seen(4 * second), second)
            lossy.hear(ONE, seen(4 * second), second)
    assert rate(lossy, 60, ONE) == pytest.approx(rate(meter, 60, ONE))


def test_demand_fades_when_arrivals_end() -> None:
    meter = DemandMeter()
    for second in range(10):
        meter.hear(ONE, seen(4 * second), second)
    for second in range(10, 60):
        meter.hear(ONE, seen(36), second)
    assert rate(meter, 60, ONE) < 0.3


def test_a_silent_sidecars_demand_is_held_for_a_while() -> None:
    meter = DemandMeter()
    meter.hear(ONE, seen(0), 0)
    meter.hear(ONE, seen(4), 1)
    assert rate(meter, 1 + SILENT, ONE) == pytest.approx(4)
    assert rate(meter, 1.1 + SILENT, ONE) == 0


def test_classes_sum_sidecars_and_weigh_their_offers_by_rate() -> None:
    meter = DemandMeter()
    for sidecar, per_second, quality in ((ONE, 3, 0.4), (TWO, 1, 0.8)):
        meter.hear(sidecar, seen(0, quality), 0)
        meter.hear(sidecar, seen(per_second, quality), 1)
    (found,) = meter.classes({ONE: POLICY, TWO: POLICY}, KNOWN, 1)
    assert (found.policy, found.tier, found.task, found.weight) == (POLICY, GOLD, MATH, 4)
    assert found.shed_penalty == 1.0
    assert found.rate == pytest.approx(4)
    assert found.offers[LARGE].quality == pytest.approx(0.5)


def test_sidecars_without_policy_and_unknown_tiers_are_no_demand() -> None:
    meter = DemandMeter()
    unknown = {(TierName("platinum"), MATH): ClassDemand(0, {})}
    meter.hear(ONE, unknown, 0)
    meter.hear(ONE, {(TierName("platinum"), MATH): ClassDemand(9, {})}, 1)
    assert meter.classes({ONE: POLICY}, KNOWN, 1) == ()
    meter.hear(TWO, seen(0), 0)
    meter.hear(TWO, seen(9), 1)
    assert meter.classes({}, KNOWN, 1) == ()
