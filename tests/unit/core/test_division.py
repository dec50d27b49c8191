"""Prices, flows and targets of one fleet."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.demand import SharedDemand
from modelfleet_core.division.problem import DivisionProblem, problem_of
from modelfleet_core.division.result import Division, Termination
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import ModelName, ObjectKey
from support.fleets import POLICY, demand, external, fleet, key, model, on_pool

SMALL, LARGE = ModelName("small"), ModelName("large")
TWO = fleet(model(on_pool("small")), model(on_pool("large")))
OFFERS = {"small": (0.5, 0.001, 1.0), "large": (0.9, 0.01, 2.0)}
OTHER = ObjectKey("ml", "other")
SIDECARS = tuple(SidecarId("ml", name, name, "1") for name in ("one", "two", "three"))


def divided(
    small: int, large: int, *, rate: float = 20.0, budget: float | None = None, warm: Division | None = None
) -> Division:
    rates = {} if budget is None else {POLICY: budget}
    slots = {key("small"): small, key("large"): large}
    return divide(DivisionProblem(TWO, (demand(rate, OFFERS),), slots, rates), warm=warm)


def test_with_capacity_for_all_the_best_model_serves_and_nothing_has_a_price() -> None:
    division = divided(100, 100)
    assert division.flows == {(0, LARGE): pytest.approx(20.0)}
    assert division.shed == (pytest.approx(0.0),)
    assert set(division.slot_prices.values()) == {0.0}
    assert division.objective == pytest.approx(20 * 0.9)
    assert division.termination is Termination.CONVERGED


def test_scarce_slots_of_the_best_model_get_the_price_of_the_quality_they_add() -> None:
    division = divided(100, 16)
    assert division.flows[0, LARGE] == pytest.approx(16 / 2, rel=0.05)
    assert division.flows[0, LARGE] * 2 <= 16 * (1 + 1e-9)
    assert division.slot_prices[key("large")] == pytest.approx((0.9 - 0.5) / 2, abs=0.01)
    assert division.slot_prices[key("small")] == 0.0


def test_what_no_slot_can_serve_is_shed_and_slots_then_are_worth_an_answer() -> None:
    division = divided(4, 0)
    assert division.shed[0] == pytest.approx(20 - 4, rel=0.01)
    assert division.slot_prices[key("small")] == pytest.approx(0.5 + 0.5, abs=0.02)


def test_a_model_without_slots_has_the_price_that_its_first_one_would_bring() -> None:
    assert divided(100, 0).slot_prices[key("large")] == pytest.approx((0.9 - 0.5) / 2)
    assert divided(0, 100).slot_prices[key("small")] == 0.0


def test_a_price_rises_gently_from_before_slots_are_full_to_after() -> None:
    full = 100 / 2.0
    prices = [
        divided(0, 100, rate=full * share).slot_prices[key("large")] for share in np.linspace(0.9, 1.2, 61)
    ]
    steps = np.diff(prices)
    assert prices[0] == 0.0
    assert prices[-1] == pytest.approx((0.9 + 0.5) / 2, rel=0.02)
    assert (steps >= -1e-6).all()
    assert steps.max() < 0.06, "the whole loss of shedding, .7, within a percent of load would be a jump"


def test_a_budget_has_the_price_of_the_quality_that_a_dollar_buys() -> None:
    division = divided(100, 100, budget=0.11)
    assert division.flows[0, LARGE] == pytest.approx(10.0, rel=0.06)
    assert division.flows[0, LARGE] + division.flows[0, SMALL] == pytest.approx(20.0)
    assert division.money_prices[POLICY] == pytest.approx((0.9 - 0.5) / (0.01 - 0.001), rel=0.02)
    assert 0.01 * division.flows[0, LARGE] + 0.001 * division.flows[0, SMALL] <= 0.11 * (1 + 1e-9)


def test_a_spent_budget_leaves_what_costs_nothing() -> None:
    offers = {"small": (0.5, 0.0, 1.0), "large": (0.9, 0.01, 2.0)}
    slots = {key("small"): 100, key("large"): 100}
    division = divide(DivisionProblem(TWO, (demand(5.0, offers),), slots, {POLICY: -1.0}))
    assert division.flows == {(0, SMALL): pytest.approx(5.0)}
    assert division.money_prices[POLICY] == pytest.approx(0.4 / 0.01)


def test_equal_work_costs_the_same_on_fast_and_slow_variants() -> None:
    both = fleet(model(on_pool("m", variant="slow", per_token=0.02), on_pool("m", variant="fast")))
    slots = {key("m", "slow"): 4, key("m", "fast"): 4}
    prices = divide(DivisionProblem(both, (demand(50.0, {"m": (0.8, 0.0, 2.0)}),), slots, {})).slot_prices
    assert prices[key("m", "fast")] == pytest.approx(2 * prices[key("m", "slow")])
    assert prices[key("m", "slow")] > 0


def test_weighty_classes_come_first() -> None:
    offers = {"large": OFFERS["large"]}
    classes = (demand(10.0, offers), demand(5.0, offers, weight=4.0, shed_penalty=2.0))
    division = divide(DivisionProblem(TWO, classes, {key("large"): 10}, {}))
    assert division.shed[1] < 5.0
    assert division.shed[0] == pytest.approx(10.0, rel=0.01)


def test_a_class_without_offers_is_shed_and_an_unknown_model_serves_nothing() -> None:
    classes = (demand(3.0, {}), demand(2.0, {"gone": (0.9, 0.0, 1.0)}))
    division = divide(DivisionProblem(TWO, classes, {key("small"): 10}, {}))
    assert division.shed == (3.0, 2.0)
    assert set(division.slot_prices.values()) == {0.0}


def test_without_demand_nothing_has_a_price() -> None:
    division = divide(DivisionProblem(TWO, (), {key("small"): 10}, {POLICY: 1.0}))
    assert set(division.slot_prices.values()) == {0.0}
    assert division.money_prices == {POLICY: 0.0}
    assert (division.objective, division.bound) == (0.0, 0.0)


def test_external_endpoints_have_prices_too() -> None:
    api = fleet(model(external("api")))
    problem = DivisionProblem(api, (demand(50.0, {"api": (0.9, 0.01, 1.0)}),), {key("api", "api"): 10}, {})
    assert divide(problem).slot_prices[key("api", "api")] > 0


def test_the_last_prices_change_the_way_and_not_the_answer() -> None:
    cold = divided(100, 16, budget=0.1)
    for warm in (
        divided(4, 0, budget=5.0),
        divided(100, 100, budget=0.0),
        divided(100, 16, rate=21, budget=0.1),
    ):
        again = divided(100, 16, budget=0.1, warm=warm)
        assert again.slot_prices == pytest.approx(cold.slot_prices, abs=1e-3)
        assert again.money_prices == pytest.approx(cold.money_prices, rel=1e-3)


def _shared(*rates: tuple[float, ...]) -> SharedDemand:
    figures = np.array(rates)
    totals = figures.sum(axis=0)
    classes = (demand(float(totals[0]), OFFERS), demand(float(totals[1]), OFFERS, policy=OTHER))
    return SharedDemand(classes, SIDECARS, figures)


def test_each_sidecar_gets_its_part_of_the_busy_slots_and_of_the_money() -> None:
    shared = _shared((6.0, 0.0), (2.0, 0.0), (0.0, 4.0))
    slots = {key("small"): 100, key("large"): 100}
    targets = divide(problem_of(TWO, shared, slots, {POLICY: 1.0, OTHER: 0.01})).targets
    assert targets is not None
    by_sidecar = targets.by_sidecar()
    one, two, three = SIDECARS
    assert by_sidecar[one] == {key("large"): pytest.approx(12.0), key("small"): 0.0}
    assert by_sidecar[two] == {key("large"): pytest.approx(4.0), key("small"): 0.0}
    assert by_sidecar[three][key("small")] > by_sidecar[three][key("large")], "its budget buys little"
    assert targets.allowances() == {
        POLICY: {one: pytest.approx(0.75), two: pytest.approx(0.25)},
        OTHER: {three: pytest.approx(0.01)},
    }


def test_targets_share_a_models_slots_among_its_variants_by_their_number() -> None:
    both = fleet(model(on_pool("m", variant="slow", per_token=0.02), on_pool("m", variant="fast")))
    shared = SharedDemand((demand(1.0, {"m": (0.8, 0.0, 3.0)}),), SIDECARS[:1], np.array([[1.0]]))
    targets = divide(problem_of(both, shared, {key("m", "slow"): 20, key("m", "fast"): 10}, {})).targets
    assert targets is not None
    (mine,) = targets.by_sidecar().values()
    # 3 fast slots' work on 20 half as fast and 10 fast ones: .15 of each.
    assert mine == {key("m", "slow"): pytest.approx(3.0), key("m", "fast"): pytest.approx(1.5)}
