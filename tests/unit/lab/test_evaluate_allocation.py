"""Pressure and allocation: budgets and GPUs are kept, and rules differ as they must."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_lab.evaluate import allocation, capacity, gpus, pressure
from modelfleet_lab.evaluate.rivals import OURS
from modelfleet_lab.evaluate.scene import make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.slots import demand, scarce
from modelfleet_lab.evaluate.told import Side, Split
from support.batch_scenes import MODELS, split


def test_dearer_models_take_more_gpus() -> None:
    assert gpus.sizes(split(1).past).tolist() == [1, 4, 8, 2]


def test_classes_are_asked_as_much_as_a_batch_and_cost_what_their_queries_do() -> None:
    data = split(1, n=900)
    found = gpus.classes(data.past, data.models, seed=0)
    assert len(found) == gpus.CLASSES
    assert sum(one.rate for one in found) == pytest.approx(100.0)
    mean = sum(one.rate * one.offers[gpus.ModelName("large")].cost_usd for one in found) / 100.0
    assert mean == pytest.approx(data.past.told_cost[:, 2].mean(), rel=0.05)


def test_no_allocation_exceeds_its_gpus_and_ours_beats_equal_where_one_model_is_weak() -> None:
    n = 300
    quality = np.tile([0.3, 1.0], (n, 1))
    side = Side(quality, np.full((n, 2), 0.01), quality, np.full((n, 2), 0.01))
    data = Split(("weak", "good"), side, side)
    found = allocation.run(data, seed=0, gpus=(48,), share=1.1, orders=1, progress=lambda _: None)
    assert found.sizes == {"weak": 1, "good": 4}
    ours, *others = found.found[0][1]
    rules = {one.line.name: one for one in others}
    # A hundred slots, and spare ones for random arrivals.
    assert ours.replicas == {"good": 11}
    assert ours.line.quality == pytest.approx(1.0)
    assert rules["popularity"].replicas == {"good": 12}
    assert rules["equal"].replicas["weak"] > rules["equal"].replicas["good"]
    assert rules["equal"].line.behind > 20.0
    for one in (ours, *others):
        assert sum(found.sizes[name] * count for name, count in one.replicas.items()) <= 48
        assert one.line.cost <= 1.1


def test_allocations_repeat_by_seed_and_name_every_rule() -> None:
    data = split(4, n=500)
    heard: list[str] = []
    first = allocation.run(data, seed=2, gpus=(16,), orders=1, progress=heard.append).json()
    again = allocation.run(data, seed=2, gpus=(16,), orders=1, progress=lambda _: None).json()
    assert first == again
    rules = first["gpus"]["16"]["methods"]
    assert [f"allocation, 16 GPUs: {name}" for name in rules] == heard
    assert rules[OURS]["behind"] == 0.0


def test_pressure_plays_the_slots_of_capacity_with_less_and_less_money() -> None:
    data = split(5, n=300)
    found = pressure.run(data, seed=1, budgets=(0.2, 0.5), orders=1, progress=lambda _: None)
    order = random_orders(len(data.test.quality), 1, seed=1)
    loose = make_scene(data, without_limits(len(MODELS)), order, seed=1)
    assert list(found.slots.values()) == scarce(demand(loose, capacity.SHARE), 1.5).tolist()
    section = found.json()
    assert list(section["budgets"]) == ["0.2", "0.5"]
    for share, lines in found.found:
        assert lines[0].name == OURS
        assert lines[0].cost <= share * 1.02
    poor, rich = (lines[0].quality for _, lines in found.found)
    assert poor < rich
