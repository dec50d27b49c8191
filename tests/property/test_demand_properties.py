"""Demand is the same however sketches are merged, reports lost, and cells joined."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.demand import DemandClass
from modelfleet_core.demand.cells import cluster, coarser
from modelfleet_core.demand.grouping import error, grouped
from modelfleet_core.demand.meter import DemandMeter
from modelfleet_core.demand.sketch import DemandReport, Sketch
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName
from support.manifests import policy_manifest
from support.sketches import GOLD, offers

pytestmark = pytest.mark.property

POLICY = ObjectKey("ml", "assistant")
KNOWN = {POLICY: parse_policy(policy_manifest())}
seeds = st.integers(0, 2**32 - 1)


def sidecar(number: int) -> SidecarId:
    return SidecarId("ml", f"s{number}", f"s{number}", "1")


def request(rng: random.Random) -> tuple[TaskName, dict[ModelName, object]]:
    task = TaskName(f"{rng.choice(['math', 'code', 'chat'])}/{rng.randrange(10)}")
    known = rng.sample(["small", "middle", "large"], rng.randint(1, 3))
    return task, offers(**{name: (rng.random(), rng.random() / 100, 5 * rng.random()) for name in known})


def read(meter: DemandMeter, count: int, now: float) -> dict[str, DemandClass]:
    found = meter.classes({sidecar(n): POLICY for n in range(count)}, KNOWN, now)
    return {str(kind.task): kind for kind in found}


def same(one: dict[str, DemandClass], other: dict[str, DemandClass]) -> None:
    assert one.keys() == other.keys()
    for name, kind in one.items():
        assert kind.rate == pytest.approx(other[name].rate)
        assert kind.offers.keys() == other[name].offers.keys()
        for model, offer in kind.offers.items():
            twin = other[name].offers[model]
            assert (offer.quality, offer.cost_usd, offer.service_time) == pytest.approx(
                (twin.quality, twin.cost_usd, twin.service_time)
            )


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 6))
def test_the_order_in_which_sidecars_are_heard_and_read_changes_nothing(seed: int, count: int) -> None:
    rng = random.Random(seed)
    sketches = [Sketch() for _ in range(count)]
    straight, shuffled = DemandMeter(), DemandMeter()
    for second in range(5):
        for sketch in sketches:
            for _ in range(rng.randrange(8)):
                sketch.record(GOLD, *request(rng))
        reports = [(sidecar(n), sketch.changes()) for n, sketch in enumerate(sketches)]
        for name, report in reports:
            straight.hear(name, report, second)
        for name, report in rng.sample(reports, count):
            shuffled.hear(name, report, second)
        same(read(straight, count, second), read(shuffled, count, second))


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_lost_repeated_and_reordered_reports_change_nothing_once_a_newer_one_is_heard(seed: int) -> None:
    rng = random.Random(seed)
    sketch, whole, meter = Sketch(), Sketch(), DemandMeter()
    meter.hear(sidecar(0), sketch.changes(), 0.0)
    underway: list[tuple[int, DemandReport]] = []
    answered = 0
    for sequence in range(1, 30):
        for _ in range(rng.randrange(4)):
            task, offered = request(rng)
            sketch.record(GOLD, task, offered)
            whole.record(GOLD, task, offered)
        if rng.random() < 0.1:
            sketch.unheard()
        underway.append((sequence, sketch.changes()))
        sketch.sent(sequence)
        rng.shuffle(underway)
        for _ in range(rng.randrange(3)):
            if underway:
                heard, report = rng.choice(underway)
                meter.hear(sidecar(0), report, 1.0 + sequence / 100)
                # Streams keep order: a report is answered once all before it were heard or are known lost
                # with their stream. Here any may be lost, so only what holds all cells counts as answered.
                if len(report.cells) == len(whole.changes().cells):
                    answered = max(answered, heard)
                underway = [one for one in underway if rng.random() < 0.8]
        sketch.answered(answered)
    sketch.unheard()
    meter.hear(sidecar(0), sketch.changes(), 10.0)
    straight = DemandMeter()
    straight.hear(sidecar(0), Sketch().changes(), 0.0)
    straight.hear(sidecar(0), whole.changes(), 10.0)
    same(read(meter, 1, 10.0), read(straight, 1, 10.0))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 40))
def test_a_sketch_is_bounded_and_loses_no_request(seed: int, most: int) -> None:
    rng = random.Random(seed)
    sketch = Sketch(most)
    count, quality = 0.0, 0.0
    for n in range(600):
        weight = rng.choice([1.0, 0.25])
        figure = rng.random()
        tier = TierName(f"t{rng.randrange(80)}" if rng.random() < 0.3 else "gold")
        task = TaskName(f"task{rng.randrange(1 + n)}/{rng.randrange(10)}/{rng.randrange(4)}")
        sketch.record(tier, task, offers(large=(figure, 0.0, 1.0)), arrivals=weight)
        count += weight
        quality += weight * figure
    report = sketch.changes()
    assert len(report.cells) == len(set(report.cells)) <= most + most // 4 + 33
    assert report.arrivals.sum() == pytest.approx(count)
    assert report.sums[:, 0, :2].sum(axis=0) == pytest.approx([count, quality])


@given(
    st.text(max_size=20),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=5),
    st.booleans(),
)
def test_every_cluster_lies_within_the_whole_tier_after_few_steps(
    task: str, qualities: list[float], seconds: list[float], pinned: bool
) -> None:
    name = cluster(TaskName(task), qualities, seconds, ModelName("only") if pinned else None)
    while name:
        assert len(coarser(name)) < len(name)
        name = coarser(name)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 80), st.integers(1, 20), st.integers(1, 6))
def test_classes_keep_all_mass_and_their_dual_is_as_near_as_stated(
    seed: int, cells: int, most: int, models: int
) -> None:
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.01, 5, cells)
    value = rng.uniform(0, 4, (cells, models))
    cost, seconds = rng.uniform(0, 0.01, (cells, models)), rng.uniform(0.1, 9, (cells, models))
    penalty = rng.choice([0.5, 2.0], cells)
    labels = grouped(rate, value=value, penalty=penalty, cost=cost, seconds=seconds, most=most)
    assert set(labels) == set(range(min(cells, most)))
    slot, money = rng.uniform(0, 0.5, models), rng.uniform(0, 50)
    priced = np.column_stack([value - seconds * slot - cost * money, -penalty])
    dual = float(rate @ priced.max(axis=1))
    of_classes = 0.0
    for label in range(labels.max() + 1):
        mine = labels == label
        of_classes += float((rate[mine] @ priced[mine]).max())
    assert -1e-9 <= dual - of_classes <= error(rate, labels, priced) + 1e-9


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 12))
def test_cells_that_are_alike_are_joined_first(seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    kind = np.concatenate([np.arange(kinds), rng.integers(0, kinds, 50)])
    centres = rng.permutation(kinds)[:, None] + rng.uniform(0, 0.3, (kinds, 4))
    value = centres[kind] + rng.uniform(0, 0.01, (len(kind), 4))
    labels = grouped(
        rng.uniform(0.1, 1, len(kind)),
        value=value,
        penalty=np.full(len(kind), 0.5),
        cost=np.zeros_like(value),
        seconds=np.ones_like(value),
        most=kinds,
    )
    assert len(set(zip(kind.tolist(), labels.tolist(), strict=True))) == kinds
