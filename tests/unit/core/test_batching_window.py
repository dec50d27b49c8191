import pytest
from modelfleet_core.batching.window import Step, Window


def window(max_size: int = 4, max_wait: float = 0.02, margin: float = 0.005) -> Window:
    return Window(max_size=max_size, max_wait=max_wait, margin=margin)


def opened(now: float = 0.999) -> Window:
    it = window()
    assert it.arrive(now, now + 10).dispatch
    it.finish(now, binding=True, deferred=())
    return it


def test_while_nothing_binds_every_request_goes_at_once():
    it = window()
    for now in (0.0, 0.001, 0.002):
        assert it.arrive(now, now + 10).dispatch
        assert it.finish(now, binding=False, deferred=()) == Step(dispatch=False, wake_at=None)


def test_a_binding_limit_opens_the_window():
    it = opened()
    assert it.arrive(1.0, 11.0) == Step(dispatch=False, wake_at=pytest.approx(1.02))
    assert it.arrive(1.01, 11.0).wake_at == pytest.approx(1.02)
    assert not it.tick(1.019).dispatch
    assert it.tick(1.021).dispatch


def test_a_lone_request_does_not_wait_for_company_that_is_not_expected():
    it = opened()
    assert it.gathers
    assert it.arrive(2.0, 12.0).dispatch  # a second after the last one: nobody comes within 20 ms
    it.finish(2.0, binding=True, deferred=[12.0])
    assert it.capacity_changed(3.0).dispatch


def test_requests_in_quick_succession_gather():
    it = opened()
    assert it.arrive(2.0, 12.0).dispatch
    it.finish(2.0, binding=True, deferred=())
    assert not it.gathers
    for number in range(20):
        it.saw(2.001 + number / 1000)
    assert it.gathers
    assert it.arrive(2.022, 12.0) == Step(dispatch=False, wake_at=pytest.approx(2.042))


def test_two_that_wait_gather_whatever_is_expected():
    it = opened(now=0.0)
    it.finish(0.0, binding=True, deferred=[10.0, 10.0])
    it.saw(5.0)
    assert it.capacity_changed(6.0) == Step(dispatch=False, wake_at=pytest.approx(6.02))


def test_a_batch_without_a_binding_limit_shuts_it():
    it = opened()
    it.arrive(1.0, 11.0)
    assert it.tick(1.03).dispatch
    it.finish(1.03, binding=False, deferred=())
    assert not it.open
    assert it.arrive(1.04, 11.0).dispatch


def test_an_open_window_closes_when_it_is_full():
    it = opened()
    steps = [it.arrive(1.0, 11.0) for _ in range(4)]
    assert [step.dispatch for step in steps] == [False, False, False, True]


def test_the_earliest_deadline_closes_the_window():
    it = opened()
    it.arrive(1.0, 11.0)
    assert it.arrive(1.001, 1.01).wake_at == pytest.approx(1.005)
    assert it.tick(1.006).dispatch


def test_deferred_requests_wait_for_capacity_and_not_in_a_loop():
    it = opened()
    it.arrive(1.0, 11.0)
    assert it.tick(1.03).dispatch
    assert it.finish(1.03, binding=True, deferred=[11.0]) == Step(
        dispatch=False, wake_at=pytest.approx(10.995)
    )
    step = it.capacity_changed(2.0)
    assert step == Step(dispatch=False, wake_at=pytest.approx(2.02))
    assert it.tick(2.02).dispatch


def test_a_request_deferred_at_its_last_chance_is_looked_at_again_at_its_deadline():
    it = opened()
    it.arrive(1.0, 1.02)
    assert it.tick(1.016).dispatch
    assert it.finish(1.017, binding=True, deferred=[1.02]).wake_at == 1.02
    assert it.tick(1.02).dispatch


def test_requests_gather_while_a_batch_is_out():
    it = window()
    assert it.arrive(0.0, 10.0).dispatch
    assert it.arrive(0.001, 10.0) == Step(dispatch=False, wake_at=None)
    assert it.finish(0.002, binding=False, deferred=()).dispatch


def test_a_window_that_everyone_left_asks_for_nothing():
    it = opened()
    it.arrive(1.0, 1.5)
    assert it.leave(1.001) == Step(dispatch=False, wake_at=None)
    assert it.arrive(1.002, 20.0).wake_at == pytest.approx(1.022)


def test_a_window_that_could_not_hold_a_request_is_refused():
    with pytest.raises(ValueError, match="size 0"):
        window(max_size=0)
