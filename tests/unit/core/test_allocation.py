from dataclasses import replace

import pytest
from modelfleet_core.allocation.limits import limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program, ProgramAnswer
from modelfleet_core.allocation.result import Plan, Reason, Termination
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.allocation.stabilise import Stabiliser
from modelfleet_core.allocation.worth import worth
from modelfleet_core.catalog import ExternalPlacement, Fleet
from modelfleet_core.demand import DemandClass
from modelfleet_core.values import PoolName, VariantKey
from support.allocations import KINDS, large_fleet, value_of
from support.fleets import POLICY, demand, external, fleet, key, model, on_pool, pool

H100 = PoolName("h100")
TWO = fleet(model(on_pool("small")), model(on_pool("large", gpus=4, replicas=(0, 2))))
OFFERS = {"small": (0.5, 0.0, 1.0), "large": (0.9, 0.0, 1.0)}


def ask(
    it: Fleet = TWO,
    *classes: DemandClass,
    current: dict[VariantKey, int] | None = None,
    occupied: dict[VariantKey, int] | None = None,
    stock: int = 100,
) -> AllocationProblem:
    now = current or {}
    return AllocationProblem(
        fleet=it,
        classes=classes,
        current=now,
        occupied=now if occupied is None else occupied,
        stock={p.name: stock for p in it.pools},
    )


def replicas(plan: Plan) -> dict[str, int]:
    return {variant.model: it.replicas for variant, it in plan.variants.items()}


def reasons(plan: Plan) -> dict[str, Reason]:
    return {variant.model: it.reason for variant, it in plan.variants.items()}


def test_plain_demand_gets_the_replicas_that_it_needs_and_no_more():
    plan = allocate(ask(TWO, demand(10.0, OFFERS)), time_limit=5.0)
    assert replicas(plan) == {"small": 0, "large": 2}
    assert plan.termination is Termination.OPTIMAL
    assert plan.gap == pytest.approx(0.0, abs=1e-3)
    assert plan.gpus == {H100: 8}
    assert plan.hourly_cost == pytest.approx(24.0)


def test_without_demand_nothing_runs_and_the_plan_says_so():
    plan = allocate(ask(current={key("small"): 3}), time_limit=5.0)
    assert replicas(plan) == {"small": 0, "large": 0}
    assert set(reasons(plan).values()) == {Reason.NO_DEMAND}


def test_a_little_demand_that_nothing_else_serves_starts_a_model():
    classes = (demand(300.0, {"small": OFFERS["small"]}), demand(0.01, {"large": OFFERS["large"]}))
    plan = allocate(ask(fleet(*TWO.models, pools=(pool(limit=12),)), *classes), time_limit=5.0)
    assert replicas(plan)["large"] == 1


def test_a_full_pool_binds_and_has_a_price():
    plan = allocate(ask(TWO, demand(100.0, OFFERS)), time_limit=5.0)
    assert replicas(plan) == {"small": 8, "large": 0}
    assert plan.gpus[H100] == 8
    assert plan.pool_prices[H100] > 0
    assert reasons(plan)["small"] is Reason.AT_MAX
    assert reasons(plan)["large"] in (Reason.POOL_BINDS, Reason.DEMAND_MET)


def test_pool_stock_maximum_and_budget_are_told_apart():
    crowd = demand(500.0, {"small": OFFERS["small"]})
    one = model(on_pool("small", replicas=(0, 8)))
    cases = [
        (fleet(one, pools=(pool(limit=5),)), 100, 5, Reason.POOL_BINDS),
        (fleet(one, pools=(pool(limit=5),)), 3, 3, Reason.STOCK_BINDS),
        (fleet(one, pools=(pool(limit=50),)), 100, 8, Reason.AT_MAX),
        (fleet(one, pools=(pool(limit=50),), hourly_budget=13.0), 100, 4, Reason.BUDGET_BINDS),
    ]
    for it, stock, count, reason in cases:
        plan = allocate(ask(it, crowd, stock=stock), time_limit=5.0)
        assert (replicas(plan)["small"], reasons(plan)["small"]) == (count, reason)
        assert str(count) in plan.variants[key("small")].message
    assert plan.budget_price > 0


def test_external_spend_and_gpus_share_the_hourly_budget():
    it = fleet(
        model(on_pool("small", replicas=(0, 4))),
        model(external("api", concurrency=1000)),
        hourly_budget=20.0,
    )
    offers = {"small": (0.5, 0.0, 1.0), "api": (0.9, 0.001, 1.0)}
    plan = allocate(ask(it, demand(10.0, offers)), time_limit=5.0)
    # 10 requests/s elsewhere would cost 36 USD/h; a replica for 3 USD/h serves what the rest can not pay.
    assert replicas(plan)["small"] >= 1
    assert plan.hourly_cost <= 20.0 + 1e-6
    assert plan.objective > 10 * 0.5


def test_a_policy_without_money_wants_no_costly_model():
    offers = {"small": (0.5, 0.0, 1.0), "large": (0.9, 0.01, 1.0)}
    problem = AllocationProblem(
        fleet=TWO,
        classes=(demand(5.0, offers),),
        current={},
        occupied={},
        stock={H100: 8},
        budget_rate={POLICY: 0.0},
    )
    plan = allocate(problem, time_limit=5.0)
    assert replicas(plan) == {"small": 1, "large": 0}
    assert reasons(plan)["large"] is Reason.POLICY_BUDGET_BINDS
    assert "RoutingPolicy assistant has 0 USD per hour left" in plan.variants[key("large")].message
    assert reasons(plan)["small"] is not Reason.POLICY_BUDGET_BINDS


def test_minimums_that_do_not_fit_are_a_value_and_the_plan_stays_within_the_limits():
    it = fleet(model(on_pool("small", replicas=(6, 8))), model(on_pool("large", gpus=4, replicas=(1, 2))))
    plan = allocate(ask(it, demand(1.0, OFFERS)), time_limit=5.0)
    assert plan.termination is Termination.INFEASIBLE
    assert "small/gpu gets 4 of at least 6" in plan.message
    assert reasons(plan)["small"] is Reason.MINIMUM_DOES_NOT_FIT
    assert replicas(plan) == {"small": 4, "large": 1}


def test_a_minimum_is_kept_without_demand():
    it = fleet(model(on_pool("small", replicas=(2, 8))))
    plan = allocate(ask(it, demand(1.0, {"small": OFFERS["small"]})), time_limit=5.0)
    assert (replicas(plan), reasons(plan)) == ({"small": 2}, {"small": Reason.AT_MIN})


def test_a_plan_says_what_waits_for_gpus_that_stopping_pods_still_hold():
    busy = demand(10.0, {"large": OFFERS["large"]})
    plan = allocate(ask(TWO, busy, current={key("small"): 6}), time_limit=5.0)
    assert replicas(plan) == {"small": 0, "large": 2}
    assert reasons(plan)["large"] is Reason.WAITING_FOR_GPUS
    assert plan.variants[key("large")].message.startswith("2 replicas: 2 of them start as pods that stop")
    stopping = allocate(ask(TWO, busy, current={}, occupied={key("small"): 5}), time_limit=5.0)
    assert reasons(stopping)["large"] is Reason.WAITING_FOR_GPUS
    gone = allocate(ask(TWO, busy, current={key("large"): 1}), time_limit=5.0)
    assert replicas(gone) == {"small": 0, "large": 2}
    assert reasons(gone)["large"] is not Reason.WAITING_FOR_GPUS


def test_a_small_gain_starts_nothing_but_unanswered_requests_do():
    it = fleet(model(on_pool("old")), model(on_pool("new")))
    offers = {"old": (0.800, 0.0, 1.0), "new": (0.803, 0.0, 1.0)}
    plan = allocate(ask(it, demand(5.0, offers), current={key("old"): 1}), time_limit=5.0)
    assert replicas(plan) == {"old": 1, "new": 0}
    assert reasons(plan)["new"] is Reason.NOT_WORTH_MOVING
    crowd = allocate(ask(it, demand(30.0, offers), current={key("old"): 1}), time_limit=5.0)
    assert sum(replicas(crowd).values()) >= 4
    better = {"old": (0.800, 0.0, 1.0), "new": (0.9, 0.0, 1.0)}
    worth_it = allocate(ask(it, demand(5.0, better), current={key("old"): 1}), time_limit=5.0)
    assert replicas(worth_it)["new"] == 1


def swap(startup: float, quality: float, minimum_gain: float = 0.005) -> Plan:
    """One GPU, taken by `old`; `new` would answer other requests as well, at this quality instead of 0.8."""
    variants = [on_pool(name, replicas=(0, 4), startup=startup) for name in ("old", "new")]
    it = fleet(*(model(variant) for variant in variants), pools=(pool(limit=1),))
    it = replace(it, scaling=replace(it.scaling, minimum_gain=minimum_gain))
    classes = (demand(5.0, {"old": (0.8, 0.0, 1.0)}), demand(5.0, {"new": (quality, 0.0, 1.0)}))
    return allocate(ask(it, *classes, current={key("old"): 1}), time_limit=5.0)


def test_a_swap_that_gains_less_than_the_minimum_is_not_made():
    assert replicas(swap(startup=0.0, quality=0.803)) == {"old": 1, "new": 0}
    assert reasons(swap(startup=0.0, quality=0.803))[key("new").model] is Reason.NOT_WORTH_MOVING
    assert replicas(swap(startup=0.0, quality=0.9)) == {"old": 0, "new": 1}
    assert replicas(swap(startup=0.0, quality=0.803, minimum_gain=0.0)) == {"old": 0, "new": 1}


def test_a_plan_that_stays_still_says_which_limit_keeps_it_small():
    crowd = demand(500.0, {"small": OFFERS["small"]})
    one = fleet(model(on_pool("small")), pools=(pool(limit=5),))
    plan = allocate(ask(one, crowd, current={key("small"): 5}), time_limit=5.0)
    assert (replicas(plan)["small"], reasons(plan)["small"]) == (5, Reason.POOL_BINDS)
    problem = large_fleet(1, "crowded")
    plan = allocate(problem, time_limit=30.0)
    running = {k: v.replicas for k, v in plan.variants.items()}
    again = allocate(replace(problem, current=running, occupied=running), time_limit=30.0)
    assert {k: v.replicas for k, v in again.variants.items()} == running
    binding = {Reason.POOL_BINDS, Reason.STOCK_BINDS, Reason.AT_MAX}
    assert sum(v.reason in binding for v in again.variants.values()) > len(running) / 2


def test_a_swap_costs_what_its_gpus_would_have_earned_while_the_replica_starts():
    """An hour has to pay it back: 10 minutes cost a sixth of the value per second of the GPU."""
    assert replicas(swap(startup=60.0, quality=0.9)) == {"old": 0, "new": 1}
    assert replicas(swap(startup=600.0, quality=0.9)) == {"old": 1, "new": 0}
    assert replicas(swap(startup=600.0, quality=1.0, minimum_gain=0.0)) == {"old": 1, "new": 0}
    assert replicas(swap(startup=240.0, quality=1.0, minimum_gain=0.0)) == {"old": 0, "new": 1}


def test_small_groups_carry_less_per_slot_than_large_ones():
    """A replica of 10 slots carries 8.4 at once; 8 replicas of one model 75.5, not 67."""
    one = fleet(model(on_pool("small")), pools=(pool(limit=8),))
    few = allocate(ask(one, demand(8.3, {"small": OFFERS["small"]})), time_limit=5.0)
    more = allocate(ask(one, demand(8.6, {"small": OFFERS["small"]})), time_limit=5.0)
    most = allocate(ask(one, demand(75.0, {"small": OFFERS["small"]})), time_limit=5.0)
    assert [replicas(plan)["small"] for plan in (few, more, most)] == [1, 2, 8]
    assert most.flows[0, key("small").model] == pytest.approx(75.0)


def test_an_endpoint_elsewhere_gets_no_more_requests_than_it_admits():
    api = external("api", concurrency=1000)
    assert isinstance(api.placement, ExternalPlacement)
    limited = replace(api, placement=replace(api.placement, requests_per_minute=120))
    plan = allocate(ask(fleet(model(limited)), demand(10.0, {"api": (0.9, 0.0, 1.0)})), time_limit=5.0)
    assert plan.flows == {(0, key("api").model): pytest.approx(2.0)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_fleet_is_planned_to_within_half_a_percent(kind: str):
    plan = allocate(large_fleet(1, kind), time_limit=30.0)
    assert plan.search_gap <= 0.005
    assert plan.gap <= 0.1  # the bound lets every group be as well used as the largest
    assert plan.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)


def test_no_plan_with_larger_groups_exceeds_the_bound():
    """The relaxation finds two groups of 4; one of 8 wastes fewer slots and is worth more than it says."""
    one = fleet(
        *(model(on_pool(name, concurrency=1, replicas=(0, 8), startup=0.0)) for name in ("a", "b")),
        pools=(pool(limit=8),),
    )
    offers = {"a": (0.8, 0.0, 1.0), "b": (0.7, 0.0, 1.0)}
    problem = ask(one, demand(3.5, offers), demand(3.5, {"a": offers["b"], "b": offers["a"]}))
    plan = allocate(problem, time_limit=5.0)
    within = limits(problem)
    counted = worth(problem, within)
    together = {key("a"): 8, key("b"): 0}
    best = value_of(problem, counted.carrying(problem, within, together), together)
    assert plan.objective <= best <= plan.bound
    assert plan.gap == pytest.approx((plan.bound - plan.objective) / plan.bound)
    assert plan.search_gap < plan.gap


def test_without_an_answer_of_the_program_the_plan_is_greedy_within_the_limits(
    monkeypatch: pytest.MonkeyPatch,
):
    best = allocate(ask(TWO, demand(40.0, OFFERS)), time_limit=5.0)
    monkeypatch.setattr(Program, "solve", lambda *args, **kwargs: None)
    plan = allocate(ask(TWO, demand(40.0, OFFERS)), time_limit=5.0)
    assert plan.termination is Termination.FALLBACK
    assert sum(plan.gpus.values()) <= 8
    assert 0.9 * best.objective <= plan.objective <= plan.bound
    assert best.objective <= plan.bound


@pytest.mark.parametrize("kind", ["tight", "policies", "crowded"])
def test_without_time_for_whole_replicas_the_relaxation_is_rounded_and_filled_up(
    monkeypatch: pytest.MonkeyPatch, kind: str
):
    problem = large_fleet(2, kind, models=20, pools=4, classes=16)
    best = allocate(problem, time_limit=30.0)
    solve = Program.solve

    def linear_only(self: Program, *, time_limit: float, gap: float = 0.0) -> ProgramAnswer | None:
        return None if self.integer else solve(self, time_limit=time_limit, gap=gap)

    monkeypatch.setattr(Program, "solve", linear_only)
    plan = allocate(problem, time_limit=30.0)
    assert plan.termination is Termination.FALLBACK
    assert best.objective - plan.objective <= 0.05 * (best.bound - worth(problem, limits(problem)).nothing)
    assert plan.objective <= best.bound + 1e-6 <= plan.bound + 1e-6
    assert plan.gap == pytest.approx((plan.bound - plan.objective) / abs(plan.bound))
    within = limits(problem)
    assert within.fits({k: v.replicas for k, v in plan.variants.items()})


def test_scale_down_waits_until_no_recent_plan_wanted_more():
    busy, calm = demand(30.0, {"small": OFFERS["small"]}), demand(5.0, {"small": OFFERS["small"]})
    high = allocate(ask(TWO, busy), time_limit=5.0)
    running = {key("small"): replicas(high)["small"]}
    assert running[key("small")] > 1
    problem = ask(TWO, calm, current=running)
    low = allocate(problem, time_limit=5.0)
    stabiliser, first = Stabiliser(window=300.0).settle(high, ask(TWO, busy, current=running), 0.0)
    assert replicas(first) == replicas(high)
    stabiliser, held = stabiliser.settle(low, problem, 100.0)
    assert replicas(held)["small"] == running[key("small")]
    assert reasons(held)["small"] is Reason.HELD_BY_STABILISATION
    assert held.gpus[H100] == running[key("small")]
    _, after = stabiliser.settle(low, problem, 301.0)
    assert replicas(after) == replicas(low)


def test_a_restart_scales_nothing_down_at_once_and_scaling_up_is_not_held():
    calm = ask(TWO, demand(5.0, {"small": OFFERS["small"]}), current={key("small"): 4})
    stabiliser, held = Stabiliser(window=300.0).settle(allocate(calm, time_limit=5.0), calm, 1000.0)
    assert replicas(held)["small"] == 4
    crowd = ask(TWO, demand(60.0, {"small": OFFERS["small"]}), current={key("small"): 4})
    _, up = stabiliser.settle(allocate(crowd, time_limit=5.0), crowd, 1001.0)
    assert replicas(up)["small"] > 4


def test_a_hold_keeps_no_more_than_pool_and_budget_allow():
    current = {key("small"): 6}
    for it, most in (
        (fleet(*TWO.models, pools=(pool(limit=4),)), 4),
        (fleet(*TWO.models, hourly_budget=9.0), 3),
    ):
        problem = ask(it, demand(5.0, {"small": OFFERS["small"]}), current=current)
        plan = allocate(problem, time_limit=5.0)
        _, settled = Stabiliser(window=300.0).settle(plan, problem, 0.0)
        assert replicas(settled)["small"] == most > replicas(plan)["small"]


A, B = key("a"), key("b")
PAIR = fleet(
    model(on_pool("a", replicas=(0, 4))), model(on_pool("b", replicas=(0, 4))), pools=(pool(limit=4),)
)
FOR_A, FOR_B = demand(30.0, {"a": (0.9, 0.0, 1.0)}), demand(30.0, {"b": (0.9, 0.0, 1.0)})


def settled(
    stabiliser: Stabiliser, *classes: DemandClass, current: dict[VariantKey, int], now: float
) -> tuple[Stabiliser, Plan]:
    problem = ask(PAIR, *classes, current=current)
    return stabiliser.settle(allocate(problem, time_limit=5.0), problem, now)


def test_gpus_move_at_once_to_who_needs_them_on_a_full_pool():
    stabiliser, first = settled(Stabiliser(300.0), FOR_A, current={A: 4}, now=0.0)
    assert replicas(first) == {"a": 4, "b": 0}
    _, moved = settled(stabiliser, FOR_B, current={A: 4}, now=15.0)
    assert replicas(moved) == {"a": 0, "b": 4}
    assert moved.gpus[H100] == 4


def test_a_move_takes_only_what_others_need_and_idle_replicas_still_wait():
    stabiliser, _ = settled(Stabiliser(300.0), FOR_A, current={A: 4}, now=0.0)
    _, moved = settled(stabiliser, demand(5.0, {"b": (0.9, 0.0, 1.0)}), current={A: 4}, now=15.0)
    assert replicas(moved) == {"a": 3, "b": 1}
    assert reasons(moved)["a"] is Reason.HELD_BY_STABILISATION


MIXED = fleet(
    model(on_pool("small", replicas=(0, 4))),
    model(on_pool("large", gpus=2, replicas=(0, 2))),
    pools=(pool(limit=4),),
)
ANY = {"small": (0.5, 0.0, 0.2), "large": (0.9, 0.0, 1.0)}


def mixed(stabiliser: Stabiliser, *classes: DemandClass, now: float) -> tuple[Stabiliser, Plan]:
    """Plan where two small replicas and a large one fill the pool."""
    problem = ask(MIXED, *classes, current={key("small"): 2, key("large"): 1})
    return stabiliser.settle(allocate(problem, time_limit=5.0), problem, now)


def test_a_move_to_fewer_slots_of_a_better_model_waits_as_a_scale_down_does():
    calm = demand(12.0, ANY)
    assert replicas(allocate(ask(MIXED, calm), time_limit=5.0)) == {"small": 0, "large": 2}
    stabiliser, first = mixed(Stabiliser(300.0), calm, now=0.0)
    assert replicas(first) == {"small": 2, "large": 1}
    assert reasons(first)["large"] is Reason.HELD_BY_STABILISATION
    assert "where fewer requests would fit" in first.variants[key("large")].message
    stabiliser, _ = mixed(stabiliser, calm, now=299.0)
    _, later = mixed(stabiliser, calm, now=300.0)
    assert replicas(later) == {"small": 0, "large": 2}


def test_a_move_that_leaves_room_for_twice_the_requests_happens_at_once():
    _, plan = mixed(Stabiliser(300.0), demand(10.0, ANY), now=0.0)
    assert replicas(plan) == {"small": 0, "large": 2}


def test_a_move_that_leaves_some_requests_without_room_waits():
    few = demand(0.2, {"small": ANY["small"]})
    many = demand(9.7, {"large": ANY["large"], "small": ANY["small"]})
    wished = allocate(ask(MIXED, few, many), time_limit=5.0)
    assert replicas(wished) == {"small": 0, "large": 2}
    _, plan = mixed(Stabiliser(300.0), few, many, now=0.0)
    assert replicas(plan) == {"small": 2, "large": 1}


def test_a_move_to_a_model_that_some_requests_lack_happens_at_once():
    picky = demand(14.0, {"large": ANY["large"]})
    _, plan = mixed(Stabiliser(300.0), picky, demand(0.5, {"small": ANY["small"]}), now=0.0)
    assert replicas(plan)["large"] == 2


def test_what_a_move_brought_stays_for_the_window():
    stabiliser, _ = settled(Stabiliser(300.0), FOR_A, current={A: 4}, now=0.0)
    stabiliser, _ = settled(stabiliser, FOR_B, current={A: 4}, now=15.0)
    stabiliser, back = settled(stabiliser, FOR_A, current={B: 4}, now=30.0)
    assert replicas(back) == {"a": 0, "b": 4}
    assert reasons(back) == dict.fromkeys(("a", "b"), Reason.HELD_BY_STABILISATION)
    assert "other variants keep the GPUs or the money for them until 300 s after" in back.variants[A].message
    _, later = settled(stabiliser, FOR_A, current={B: 4}, now=316.0)
    assert replicas(later) == {"a": 4, "b": 0}


def test_scaling_up_waits_until_every_plan_of_the_window_wanted_it():
    rising = [30.0, 30.0, 5.0, 30.0, 30.0, 30.0, 30.0]
    stabiliser, seen = Stabiliser(300.0, up_window=40.0), []
    current = {A: 1}
    for step, rate in enumerate(rising):
        stabiliser, plan = settled(
            stabiliser, demand(rate, {"a": (0.9, 0.0, 1.0)}), current=current, now=15.0 * step
        )
        current = {A: replicas(plan)["a"]}
        seen.append(current[A])
        if step == 1:
            assert reasons(plan)["a"] is Reason.HELD_BY_STABILISATION
            assert "not by every plan of the last 40 s" in plan.variants[A].message
    assert seen == [1, 1, 1, 1, 1, 4, 4], "the short lull began the wait anew"


def test_a_declared_minimum_does_not_wait_to_be_reached():
    it = fleet(model(on_pool("a", replicas=(2, 4))))
    problem = ask(it)
    _, plan = Stabiliser(300.0, up_window=40.0).settle(allocate(problem, time_limit=5.0), problem, 0.0)
    assert replicas(plan) == {"a": 2}


def test_what_is_to_be_replaced_stays_while_its_replacement_waits_to_be_started():
    stabiliser, _ = settled(Stabiliser(0.0, up_window=40.0), FOR_A, current={A: 4}, now=0.0)
    stabiliser, waiting = settled(stabiliser, FOR_B, current={A: 4}, now=15.0)
    assert replicas(waiting) == {"a": 4, "b": 0}
    stabiliser, _ = settled(stabiliser, FOR_B, current={A: 4}, now=30.0)
    _, moved = settled(stabiliser, FOR_B, current={A: 4}, now=56.0)
    assert replicas(moved) == {"a": 0, "b": 4}


def test_after_a_restart_nothing_is_taken_from_what_runs_for_a_window():
    stabiliser = Stabiliser.resumed(300.0, {A: 4}, 0.0)
    stabiliser, kept = settled(stabiliser, FOR_B, current={A: 4}, now=1.0)
    assert replicas(kept) == {"a": 4, "b": 0}
    _, later = settled(stabiliser, FOR_B, current={A: 4}, now=301.0)
    assert replicas(later) == {"a": 0, "b": 4}
