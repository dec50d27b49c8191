"""Demand of many sidecars from cumulative reports."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.demand.cells import cluster
from modelfleet_core.demand.columns import MAX_MODELS
from modelfleet_core.demand.meter import MAX_CELLS, MOST_CLASSES, SILENT, DemandMeter
from modelfleet_core.demand.sketch import NO_DEMAND, DemandReport, Sketch
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName
from support.fleets import demand, fleet, key, model, on_pool
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
        for n in range(130)
    }
    for second in (0, 1):
        for sidecar, some in ((ONE, 100), (TWO, 30)):
            mine = list(figures.items())[-some:]
            meter.hear(sidecar, seen({key: (second * (n % 7), o) for n, (key, o) in enumerate(mine)}), second)
    policies = {ONE: POLICY, TWO: POLICY}
    shared = meter.shared(policies, KNOWN, 1)
    assert len(shared.classes) == MOST_CLASSES
    assert shared.sidecars == (ONE, TWO)
    assert shared.rates.sum(axis=0) == pytest.approx([found.rate for found in shared.classes])
    assert shared.rates.sum(axis=1) == pytest.approx([sum(n % 7 for n in range(some)) for some in (100, 30)])
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
    assert len(meter._cells) <= MAX_CELLS + MAX_CELLS // 4 + 33


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


def test_classes_price_slots_as_single_requests_of_many_lengths_would() -> None:
    rng = np.random.default_rng(3)
    sketch, meter, requests = Sketch(), DemandMeter(), []
    meter.hear(ONE, sketch.changes(), 0)
    for _ in range(2000):
        ease, length = rng.random(), rng.lognormal(0.0, 0.7)
        figures = {"small": (0.7 * ease, 0.0, 2 * length), "large": (0.5 + 0.5 * ease, 0.0, 7 * length)}
        requests.append(demand(2.0, figures, weight=4.0, shed_penalty=2.0))
        seconds = [figure[2] for figure in figures.values()]
        name = cluster(TaskName("chat"), [figure[0] for figure in figures.values()], seconds)
        sketch.record(GOLD, name, offers(**figures))
    meter.hear(ONE, sketch.changes(), 0.5)
    classes = meter.classes({ONE: POLICY}, KNOWN, 0.5)
    both = fleet(model(on_pool("small")), model(on_pool("large")))
    slots = {key("small"): 12_000, key("large"): 5_000}
    of_classes = divide(DivisionProblem(both, classes, slots, {})).slot_prices[key("large")]
    of_requests = divide(DivisionProblem(both, tuple(requests), slots, {})).slot_prices[key("large")]
    assert of_classes == pytest.approx(of_requests, rel=0.1), "without octaves a third less"


def test_octaves_give_way_to_tenths_and_tenths_to_tasks_where_cells_run_out() -> None:
    sketch = Sketch(8)
    for octave in range(20):
        sketch.record(GOLD, TaskName(f"math/5/{octave}"), offers(large=(0.5, 0.01, 2.0)))
    for tenth in range(4):
        sketch.record(GOLD, TaskName(f"math/{tenth}/0"), offers(large=(0.5, 0.01, 2.0)))
    names = [name for _, name in sketch.changes().cells]
    assert names == [*(f"math/5/{octave}" for octave in range(6)), "math/5", "math/0", "math"]
    assert sketch.changes().arrivals.tolist() == [1.0] * 6 + [14.0, 1.0, 3.0]
