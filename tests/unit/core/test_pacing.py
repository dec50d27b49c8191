import pytest
from modelfleet_core.pacing import Pacing, PacingRule

RULE = PacingRule(calibrated=1.0, ceiling=101.0, horizon=60.0)


def test_spending_the_allowance_keeps_the_price():
    pacing = Pacing.start(RULE, 0.0, 0.5)
    for second in range(1, 10):
        pacing = pacing.spend(0.5).advance(float(second), 0.5)
    assert pacing.price == pytest.approx(1.0)
    assert pacing.limit == pytest.approx(30.0)


def test_overspending_raises_the_price_and_thrift_lowers_it_to_the_calibrated_one():
    pacing = Pacing.start(RULE, 0.0, 0.5).spend(6.5).advance(1.0, 0.5)
    assert pacing.price == pytest.approx(1.0 + 101.0 * 6 / 30)
    assert pacing.advance(5.0, 0.5).price < pacing.price
    assert pacing.advance(600.0, 0.5).price == 1.0


def test_the_price_stops_at_the_ceiling():
    assert Pacing.start(RULE, 0.0, 0.5).spend(1e6).advance(1.0, 0.5).price == 101.0


def test_a_batch_may_spend_the_unspent_allowance_of_one_horizon_at_most():
    pacing = Pacing.start(RULE, 0.0, 0.5)
    assert pacing.spend(10.0).limit == pytest.approx(20.0)
    assert pacing.advance(1000.0, 0.5).limit == pytest.approx(30.0)
    assert pacing.spend(100.0).advance(1.0, 0.5).limit == 0.0


def test_without_an_allowance_nothing_is_worth_spending():
    pacing = Pacing.start(RULE, 0.0, 0.5).advance(1.0, 0.0)
    assert pacing.price == RULE.ceiling
    assert pacing.limit == 0.0


def test_a_clock_that_steps_back_books_nothing_twice():
    pacing = Pacing.start(RULE, 10.0, 0.5).spend(1.0).advance(5.0, 0.5)
    assert pacing.at == 10.0
    assert pacing.limit == pytest.approx(29.0)


def test_a_rule_without_room_is_refused():
    with pytest.raises(ValueError, match="calibrated"):
        PacingRule(calibrated=2.0, ceiling=1.0, horizon=60.0)
