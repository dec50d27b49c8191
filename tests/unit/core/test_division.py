import pytest
from modelfleet_core.division import capacity
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.division.result import Division, Termination
from modelfleet_core.division.solver import divide
from modelfleet_core.values import ModelName
from support.fleets import POLICY, demand, external, fleet, key, model, on_pool

SMALL, LARGE = ModelName("small"), ModelName("large")
TWO = fleet(model(on_pool("small")), model(on_pool("large")))
OFFERS = {"small": (0.5, 0.001, 1.0), "large": (0.9, 0.01, 2.0)}


def divided(
    small: int, large: int, *, rate: float = 20.0, budget: float | None = None, time_limit: float = 5.0
) -> Division:
    rates = {} if budget is None else {POLICY: budget}
    slots = {key("small"): small, key("large"): large}
    return divide(DivisionProblem(TWO, (demand(rate, OFFERS),), slots, rates), time_limit=time_limit)


def test_with_capacity_for_all_the_best_model_serves_and_nothing_has_a_price():
    division = divided(100, 100)
    assert division.flows == {(0, LARGE): pytest.approx(20.0)}
    assert division.shed == (0.0,)
    assert set(division.slot_prices.values()) == {0.0}
    assert division.objective == pytest.approx(20 * 0.9)


def test_scarce_slots_of_the_best_model_get_the_price_of_the_quality_they_add():
    division = divided(100, 16)
    busy = 16 * capacity.utilisation(16)
    assert division.flows[0, LARGE] == pytest.approx(busy / 2)
    assert division.slot_prices[key("large")] == pytest.approx((0.9 - 0.5) / 2)
    assert division.slot_prices[key("small")] == 0.0


def test_one_more_slot_adds_about_its_price():
    for small, large in ((100, 16), (8, 8), (4, 30)):
        now = divided(small, large)
        price = now.slot_prices[key("large")]
        assert price > 0
        gain = divided(small, large + 1).objective - now.objective
        # A larger group of slots can also be filled better, so that a slot adds a little more than itself.
        assert price * capacity.utilisation(large) <= gain <= price * 1.05


def test_what_no_slot_can_serve_is_shed_and_slots_then_are_worth_an_answer():
    division = divided(4, 0)
    assert division.shed[0] == pytest.approx(20 - 4 * capacity.utilisation(4))
    assert division.slot_prices[key("small")] == pytest.approx(0.5 + 0.5)


def test_a_budget_has_the_price_of_the_quality_that_a_dollar_buys():
    division = divided(100, 100, budget=0.11)
    assert division.flows == {(0, LARGE): pytest.approx(10.0), (0, SMALL): pytest.approx(10.0)}
    assert division.money_prices[POLICY] == pytest.approx((0.9 - 0.5) / (0.01 - 0.001))
    richer = divided(100, 100, budget=0.12).objective - division.objective
    assert richer == pytest.approx(0.01 * division.money_prices[POLICY])


def test_a_spent_budget_leaves_what_costs_nothing():
    offers = {"small": (0.5, 0.0, 1.0), "large": (0.9, 0.01, 2.0)}
    problem = DivisionProblem(
        TWO, (demand(5.0, offers),), {key("small"): 100, key("large"): 100}, {POLICY: -1.0}
    )
    assert divide(problem, time_limit=5.0).flows == {(0, SMALL): pytest.approx(5.0)}


def test_equal_work_costs_the_same_on_fast_and_slow_variants():
    both = fleet(model(on_pool("m", variant="slow", per_token=0.02), on_pool("m", variant="fast")))
    problem = DivisionProblem(
        both, (demand(50.0, {"m": (0.8, 0.0, 2.0)}),), {key("m", "slow"): 4, key("m", "fast"): 4}, {}
    )
    prices = divide(problem, time_limit=5.0).slot_prices
    assert prices[key("m", "fast")] == pytest.approx(2 * prices[key("m", "slow")])
    assert prices[key("m", "slow")] > 0


def test_weighty_classes_come_first():
    offers = {"large": OFFERS["large"]}
    classes = (demand(10.0, offers), demand(5.0, offers, weight=4.0, shed_penalty=2.0))
    division = divide(DivisionProblem(TWO, classes, {key("large"): 10}, {}), time_limit=5.0)
    assert division.shed[1] < 5.0
    assert division.shed[0] == pytest.approx(10.0)


def test_a_class_without_offers_is_shed_and_an_unknown_model_serves_nothing():
    classes = (demand(3.0, {}), demand(2.0, {"gone": (0.9, 0.0, 1.0)}))
    division = divide(DivisionProblem(TWO, classes, {key("small"): 10}, {}), time_limit=5.0)
    assert division.shed == (3.0, 2.0)
    assert division.termination is Termination.OPTIMAL


def test_external_endpoints_have_prices_too():
    api = fleet(model(external("api")))
    problem = DivisionProblem(api, (demand(50.0, {"api": (0.9, 0.01, 1.0)}),), {key("api", "api"): 10}, {})
    assert divide(problem, time_limit=5.0).slot_prices[key("api", "api")] > 0


def test_without_an_answer_of_the_program_demand_is_served_greedily_within_the_limits(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("modelfleet_core.division.program.solve", lambda *args, **kwargs: None)
    division = divided(10, 16, budget=0.05)
    assert division.termination is Termination.FALLBACK
    assert division.flows[0, LARGE] == pytest.approx(5.0)
    assert division.flows.get((0, SMALL), 0.0) == 0.0
    assert division.shed == (pytest.approx(15.0),)
    assert set(division.slot_prices.values()) == {0.0}
    assert division.money_prices == {POLICY: 0.0}
