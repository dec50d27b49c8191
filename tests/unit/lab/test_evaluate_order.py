"""Orders that hurt: how they are arranged, and what a reserve price saves where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_lab.evaluate import order
from modelfleet_lab.evaluate.frontier import frontier
from modelfleet_lab.evaluate.referee import Run
from modelfleet_lab.evaluate.rivals import OURS, PRICED, UNRESERVED
from modelfleet_lab.evaluate.scene import make_scene, without_limits
from modelfleet_lab.evaluate.told import Side, Split
from support.batch_scenes import split


def test_easy_to_hard_is_rising_and_cost_is_falling_predicted_cost() -> None:
    test = split(1).test
    dear = test.told_cost.mean(axis=1)
    rising = dear[order.arrange(test, "easy-to-hard", seed=0)]
    assert (np.diff(rising) >= 0).all()
    assert (np.diff(dear[order.arrange(test, "cost", seed=0)]) <= 0).all()
    shuffled = order.arrange(test, "random", seed=0)
    assert sorted(shuffled.tolist()) == list(range(len(dear)))
    assert (shuffled != order.arrange(test, "random", seed=1)).any()


def test_an_unknown_order_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no order 'backwards'; choose of random, easy-to-hard, cost"):
        order.arrange(split(1).test, "backwards", seed=0)


def gains_late(n: int) -> Side:
    """Half of the queries are cheap and gain .1 from the dear model; the others cost twice and gain .9."""
    late = np.arange(n) % 2 == 1
    quality = np.where(late[:, None], [0.1, 1.0], [0.9, 1.0])
    cost = np.where(late, 2.0, 1.0)[:, None] * np.array([0.01, 1.0])
    return Side(quality, cost, quality, cost)


def test_a_reserve_price_keeps_money_for_requests_that_gain_more_and_come_later() -> None:
    side = gains_late(600)
    data = Split(("cheap", "dear"), side, side)
    # Two thirds of the dear model's cost pay it for all of the late half, and for no more.
    found = order.run(
        data, seed=0, orders=("easy-to-hard", "random"), budgets=(0.67,), progress=lambda _: None
    )
    for name in ("easy-to-hard", "random"):
        quality = {one.name: one.points[0][1] for one in found.found[name]}
        assert quality[OURS] == pytest.approx(0.95, abs=0.01)
        assert quality[PRICED] == pytest.approx(0.95, abs=0.01)
        late = name == "easy-to-hard"
        assert (
            (quality[UNRESERVED] < 0.80) if late else (quality[UNRESERVED] == pytest.approx(0.95, abs=0.02))
        )


def test_the_cost_of_a_share_of_quality_is_read_between_budgets() -> None:
    side = gains_late(300)
    scene = make_scene(Split(("cheap", "dear"), side, side), without_limits(2), (np.arange(300),), seed=0)
    cheap = Run(side.quality[:, 0], side.cost[:, 0], 0.0)
    dear = Run(side.quality[:, 1], side.cost[:, 1], 0.0)
    found = frontier(scene, "mix", [cheap, dear], seed=0)
    assert found.points == (pytest.approx((0.01, 0.5)), pytest.approx((1.0, 1.0)))
    assert found.figures["k95"].value == pytest.approx(0.01 + 0.99 * 0.9)
    assert found.figures["r50"].value == pytest.approx(0.5 + 0.5 * 0.49 / 0.99)
    low, high = found.figures["r50"].interval or (np.nan, np.nan)
    assert low < found.figures["r50"].value < high
    section = found.json()
    assert section["k95"] == found.figures["k95"].value
    assert section["k100_ci"] == pytest.approx([1.0, 1.0])


def test_orders_repeat_by_seed_and_say_what_is_played() -> None:
    heard: list[str] = []
    data = split(2, n=400)
    first = order.run(data, seed=3, orders=("random",), budgets=(0.2, 0.5), progress=heard.append)
    assert heard[0] == f"order random: {OURS}"
    again = order.run(data, seed=3, orders=("random",), budgets=(0.2, 0.5), progress=lambda _: None)
    assert again.json() == first.json()
    assert set(first.json()["orders"]["random"]["methods"]) == {one.name for one in first.found["random"]}
