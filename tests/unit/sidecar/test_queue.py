"""Requests wait for a place, are told apart by weight, and leave nothing behind however they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Placed, Why
from modelfleet_core.batching.worth import NO_MONEY, NO_SLOT
from modelfleet_core.catalog import Pricing
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.journal import Ended, Entry
from modelfleet_core.leasing.messages import SlotGrant, Want
from modelfleet_core.policy import Batching, Breaker, Fallback, OnOverload, Policy, Tenants, Tier
from modelfleet_core.values import EndpointUrl, NanoUsd, TaskName, TierName, VariantKey
from modelfleet_sidecar import batch, offline
from modelfleet_sidecar.assign import decision_of
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask, Decision, Reason
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.prospect import Prospect
from modelfleet_sidecar.refusals import refused
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.unreachable import LEFT_ALONE, Unreachable
from support.sidecars import SLOW, GivenLease, Spec, fleet_of, live_estimator, never, policy_of

SMALL, BIG = Spec("small", 0.5), Spec("big", 0.8)
RICH = NanoUsd(10**12)


def slots_of(*slots: tuple[Spec, int]) -> dict[EndpointUrl, SlotGrant]:
    return {EndpointUrl(f"http://{spec.name}"): SlotGrant(spec.key, count) for spec, count in slots}


class Bench:
    """A router over a lease that the test grants; no server is ever called."""

    def __init__(
        self, *specs: Spec, policy: Policy | None = None, clock: Callable[[], float] = boot_clock
    ) -> None:
        self.lease = GivenLease()
        self.lease.fleet = fleet_of(specs)
        self.lease.policy = policy if policy is not None else policy_of()
        telemetry, experience = Telemetry(), ExperienceLog()
        self.router = Router(
            lease=self.lease,
            estimator=live_estimator(telemetry, experience),
            learning=Learning(experience=experience, clock=boot_clock, telemetry=telemetry),
            keys=ApiKeys(None, boot_clock),
            telemetry=telemetry,
            clock=clock,
            draw=never,
        )
        self._following = asyncio.create_task(self.router.run())

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._following.cancel()
        await asyncio.wait([self._following])
        await self.router.close()

    def ask(
        self,
        *,
        gold: bool = False,
        model: str = "auto",
        within: float | None = None,
        routed: bool = False,
        tenant: str = "",
    ) -> Ask:
        fields = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"x-tier": "gold"} if gold else {}
        if tenant:
            headers["x-tenant"] = tenant
        return self.router.ask(parse_fields(fields), headers, remaining=within, routed=routed)

    def decide(self, **how: object) -> asyncio.Task[Decision]:
        return asyncio.create_task(self.router.decide(self.ask(**how)))  # type: ignore[arg-type]

    def wanted(self) -> dict[VariantKey, int]:
        """Return the slots that the lease client was told of."""
        return {variant: want.slots for variant, want in self.lease.wants.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5.0):
            while not condition():  # noqa: ASYNC110 - a queue tells nobody how long it is
                await asyncio.sleep(0.005)


async def test_what_waits_is_placed_as_soon_as_a_slot_comes_free() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 1)))
        first = await bench.decide(routed=True)
        second = bench.decide(routed=True)
        await bench.until(lambda: bench.router.waiting == 1)
        bench.router.settle(first.id, None)
        assert (await second).variant == BIG.key
        assert bench.router.unsettled == 1


async def test_the_next_best_model_is_taken_when_the_best_has_no_slot() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant(slots_of((SMALL, 1), (BIG, 1)))
        first, second = await bench.decide(), await bench.decide()
        assert (first.variant, first.reason) == (BIG.key, Reason.BEST_VALUE)
        assert (second.variant, second.reason) == (SMALL.key, Reason.SLOTS_BIND)


async def test_the_next_best_model_is_taken_when_money_is_short() -> None:
    cheap = replace(SMALL, pricing=replace(SMALL.pricing, input_femto=0, output_femto=0))
    async with Bench(cheap, BIG) as bench:
        bench.lease.grant(slots_of((cheap, 5), (BIG, 5)), money=NanoUsd(1))
        decision = await bench.decide()
        assert (decision.variant, decision.reason) == (cheap.key, Reason.BUDGET_BINDS)
        assert decision.reserved == 0


async def test_the_heavier_tier_gets_the_slot_that_both_wait_for() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({})
        bronze, gold = bench.decide(), bench.decide(gold=True)
        await bench.until(lambda: bench.router.waiting == 2)
        bench.lease.grant(slots_of((BIG, 1)))
        assert (await gold).tier == "gold"
        assert not bronze.done()
        bronze.cancel()
        await asyncio.wait([bronze])


async def test_easy_and_hard_requests_of_one_task_are_demand_of_their_own() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant(slots_of((BIG, 9)))
        hard = "Prove that 17 * 23 < 400, then derive f(x) = 3x^2 + 2 step by step. " * 9
        for text in ("hello", "hello", hard):
            fields = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            ask = bench.router.ask(parse_fields(fields), {}, remaining=None)
            await bench.router.decide(replace(ask, task=TaskName("chat")))
        clusters = [task for _, task, _ in bench.lease.demand]
        assert clusters[0] == clusters[1] != clusters[2]
        assert {cluster.split("/")[0] for cluster in clusters} == {"chat"}


async def test_a_request_that_is_tried_again_after_a_refusal_is_counted_once() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({}, ttl=0.1)
        for _ in range(3):
            with pytest.raises(Failure, match="NoLease"):
                await bench.decide()
        assert len(bench.lease.demand) == 1
        bench.lease.grant(slots_of((BIG, 9)))
        await bench.decide()
        assert len(bench.lease.demand) == 1
        await bench.decide()
        assert len(bench.lease.demand) == 2


async def test_an_offline_batch_counts_as_demand_what_it_placed() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 2)))
        outcomes, _ = await bench.router.decide_all([bench.ask(within=0.5) for _ in range(50)])
        assert sum(isinstance(outcome, Decision) for outcome in outcomes) == 2
        assert len(bench.lease.demand) == 2


def test_a_refusal_names_the_account_or_the_limit_that_is_short() -> None:
    lease = GivenLease()
    candidate = a_candidate()
    share = refused(GivenUp(1, candidate, Why.NO_MONEY, "share:big"), lease, 0.0)
    assert (share.reason, share.message.split(";")[0]) == (
        "BudgetExhausted",
        "what is left of share:big does not cover the request at any model",
    )
    assert share.limit == "share:big"
    rate = refused(GivenUp(1, candidate, Why.NO_SLOT, "rate:big/api!requests"), lease, 0.0)
    assert (rate.reason, rate.message) == ("NoFreeSlot", "rate:big/api!requests leaves too little for now")
    assert rate.limit == "rate:big/api!requests"
    assert refused(GivenUp(1, candidate, Why.NO_MONEY, NO_MONEY), lease, 0.0).limit == "budget"
    assert not refused(GivenUp(1, candidate, Why.NO_SLOT, NO_SLOT), lease, 0.0).limit


def a_candidate() -> Candidate:
    return Candidate(
        variants=(BIG.key,),
        tier=TierName("bronze"),
        weight=1.0,
        shed_penalty=0.5,
        arrived=0.0,
        deadline=10.0,
        longest=10.0,
        quality=(0.8,),
        cost=(0.0,),
        service_time=(1.0,),
        reserve=(NanoUsd(5),),
        excluded_by=("",),
    )


async def test_one_endpoint_is_not_filled_before_the_other() -> None:
    async with Bench(BIG) as bench:
        one, two = EndpointUrl("http://one"), EndpointUrl("http://two")
        bench.lease.grant({one: SlotGrant(BIG.key, 3), two: SlotGrant(BIG.key, 3)})
        taken = [(await bench.decide()).endpoint for _ in range(6)]
        assert taken.count(one) == taken.count(two) == 3


async def test_a_caller_that_leaves_the_queue_leaves_nothing_behind() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({}, money=RICH)
        calls = [bench.decide() for _ in range(3)]
        await bench.until(lambda: bench.router.waiting == 3)
        await bench.until(lambda: bench.wanted() == {BIG.key: 3})
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert bench.router.waiting == 0
        await bench.until(lambda: not bench.lease.wants)
        assert not bench.lease.needs


async def test_a_decision_whose_caller_has_just_left_is_given_back() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({}, money=RICH)
        call = bench.decide(routed=True)
        await bench.until(lambda: bench.router.waiting == 1)
        bench.lease.grant(slots_of((BIG, 1)), money=RICH)
        await bench.until(lambda: bench.router.waiting == 0)
        call.cancel()  # its future is done, but it has not run since
        await asyncio.wait([call])
        if call.cancelled():
            assert bench.lease.holding.idle()
        else:
            bench.router.settle(call.result().id, None)
        assert bench.lease.holding.money(boot_clock()) == RICH


async def test_a_full_queue_refuses_with_a_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_WAITING", 2)
    async with Bench(BIG) as bench:
        bench.lease.grant({})
        calls = [bench.decide() for _ in range(2)]
        await bench.until(lambda: bench.router.waiting == 2)
        with pytest.raises(Failure, match="Overloaded") as caught:
            await bench.decide()
        assert caught.value.fault is Fault.EXHAUSTED
        assert caught.value.retry_after is not None
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_a_caller_with_a_full_queue_of_its_own_makes_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "MAX_WAITING", 3)
    async with Bench(BIG) as bench:
        bench.lease.policy = replace(policy_of(), tenants=Tenants("x-tenant"))
        bench.lease.grant({})
        hot = [bench.decide(tenant="hot") for _ in range(3)]
        await bench.until(lambda: bench.router.waiting == 3)
        other = bench.decide(tenant="a")
        await bench.until(lambda: hot[2].done())
        with pytest.raises(Failure, match="Overloaded: 3 requests wait") as caught:
            await hot[2]
        assert caught.value.retry_after is not None
        with pytest.raises(Failure, match="Overloaded"):
            await bench.decide(tenant="hot")
        bench.lease.grant(slots_of((BIG, 1)))
        decision = await asyncio.wait_for(asyncio.wait({other, *hot[:2]}, return_when="FIRST_COMPLETED"), 5)
        assert len(decision[0]) == 1
        for call in (other, *hot):
            call.cancel()
        await asyncio.wait({other, *hot})


async def test_a_request_that_can_not_be_served_at_all_pushes_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "MAX_WAITING", 3)
    async with Bench(BIG) as bench:
        bench.lease.policy = replace(policy_of(), tenants=Tenants("x-tenant"))
        bench.lease.grant({})
        hot = [bench.decide(tenant="hot") for _ in range(3)]
        await bench.until(lambda: bench.router.waiting == 3)
        hopeless = replace(bench.ask(tenant="a"), exclude=frozenset({BIG.key.model}))
        with pytest.raises(Failure, match="excludes every model"):
            await bench.router.decide(hopeless)
        assert bench.router.waiting == 3
        assert not any(call.done() for call in hot)
        for call in hot:
            call.cancel()
        await asyncio.wait(hot)


async def test_refusals_for_want_of_a_slot_say_when_one_comes_free() -> None:
    slow = replace(BIG, declared=replace(BIG.declared, ttft=30_000.0))
    tiers = (Tier(TierName("batch"), 1.0, {}, on_overload=OnOverload.SHED),)
    async with Bench(slow) as bench:
        bench.lease.policy = replace(policy_of(max_request=90.0), tiers=tiers)
        bench.lease.grant(slots_of((slow, 2)))
        held = [await bench.decide() for _ in range(2)]
        with pytest.raises(Failure, match="NoFreeSlot") as caught:
            await bench.decide()
        assert caught.value.retry_after is not None
        assert 15.0 <= caught.value.retry_after <= 16.0  # half a minute, of two slots
        bench.router.release(held)


async def test_a_lease_that_runs_out_ends_what_waits() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({}, ttl=0.2)
        with pytest.raises(Failure, match="NoLease"):
            await bench.decide()


async def test_a_model_that_leaves_the_fleet_ends_who_asked_for_it_and_nobody_else() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant({})
        pinned, free = bench.decide(model="big"), bench.decide()
        await bench.until(lambda: bench.router.waiting == 2)
        bench.lease.fleet = fleet_of([SMALL])
        bench.lease.grant(slots_of((SMALL, 2)))
        assert (await free).variant == SMALL.key
        with pytest.raises(Failure, match="ModelNotFound"):
            await pinned


async def test_a_bug_in_the_solver_is_one_error_for_each_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with Bench(BIG) as bench:
        bench.lease.grant({})
        calls = [bench.decide() for _ in range(3)]
        await bench.until(lambda: bench.router.waiting == 3)
        monkeypatch.setattr(solving, "assign", broken)
        bench.lease.grant(slots_of((BIG, 3)))
        done, _ = await asyncio.wait(calls, timeout=5.0)
        errors = [call.exception() for call in done]
        assert [error.reason for error in errors if isinstance(error, Failure)] == ["InternalError"] * 3
        monkeypatch.undo()
        assert (await bench.decide()).variant == BIG.key


@pytest.mark.parametrize("waits", [True, False])
async def test_a_bug_after_a_request_was_placed_is_an_error_and_holds_nothing(
    monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with Bench(BIG) as bench:
        bench.lease.grant({} if waits else slots_of((BIG, 3)))
        monkeypatch.setattr(batch, "decision_of", broken)
        calls = [bench.decide() for _ in range(3)]
        if waits:
            await bench.until(lambda: bench.router.waiting == 3)
            bench.lease.grant(slots_of((BIG, 3)))
        done, _ = await asyncio.wait(calls, timeout=5.0)
        errors = [call.exception() for call in done]
        assert [error.reason for error in errors if isinstance(error, Failure)] == ["InternalError"] * 3
        assert bench.lease.holding.idle()
        monkeypatch.undo()
        assert (await bench.decide()).variant == BIG.key


async def test_an_offline_batch_whose_caller_leaves_between_its_parts_holds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offline, "PART", 2)
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 6)), money=RICH)
        asks = [bench.ask(within=5.0) for _ in range(6)]
        calls = [asyncio.create_task(bench.router.decide_all(asks))]
        placed: list[Decision] = []

        def note(_: Telemetry, decision: Decision) -> None:
            placed.append(decision)
            if len(placed) == 3:
                calls[0].cancel()

        monkeypatch.setattr(Telemetry, "decided", note)
        await asyncio.wait(calls, timeout=5.0)
        assert calls[0].cancelled()
        assert len(placed) == 4
        assert bench.lease.holding.idle()
        assert bench.router.unsettled == 0
        assert bench.router.explain(placed[0].id).cost == 0


async def test_an_offline_batch_that_meets_a_bug_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = 0

    def broken(placed: Placed, seen: Prospect, now: float) -> Decision:
        nonlocal told
        told += 1
        if told == 4:
            raise ZeroDivisionError
        return decision_of(placed, seen, now)

    monkeypatch.setattr(offline, "PART", 2)
    monkeypatch.setattr(offline, "decision_of", broken)
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 6)), money=RICH)
        with pytest.raises(ZeroDivisionError):
            await bench.router.decide_all([bench.ask(within=5.0) for _ in range(6)])
        assert told == 4
        assert bench.lease.holding.idle()
        assert bench.router.unsettled == 0


async def test_an_offline_batch_takes_what_others_left_between_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offline, "PART", 2)
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 6)), money=RICH)
        counted = 0

        def shrink(_: Telemetry, __: Decision) -> None:
            nonlocal counted
            counted += 1
            if counted == 2:
                bench.lease.grant(slots_of((BIG, 3)), money=RICH)

        monkeypatch.setattr(Telemetry, "decided", shrink)
        outcomes, _ = await bench.router.decide_all([bench.ask(within=5.0) for _ in range(6)])
        assert [isinstance(outcome, Decision) for outcome in outcomes] == [True] * 3 + [False] * 3
        assert sum(bench.lease.holding.in_flight().values()) == 3


async def test_a_large_batch_is_solved_aside_and_respects_who_left_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "INLINE_CELLS", 0)
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant({}, money=RICH)
        calls = [bench.decide(routed=True) for _ in range(40)]
        await bench.until(lambda: bench.router.waiting == 40)
        bench.lease.grant(slots_of((SMALL, 10), (BIG, 10)), money=RICH)
        for call in calls[:20:2]:
            call.cancel()
        await bench.until(lambda: sum(call.done() for call in calls) >= 30)
        placed = [call for call in calls if call.done() and not call.cancelled()]
        assert len(placed) == 20
        assert bench.router.unsettled == 20
        for call in placed:
            bench.router.settle(call.result().id, None)
        await bench.until(lambda: all(call.done() for call in calls))
        for call in calls:
            if not call.cancelled():
                bench.router.settle(call.result().id, None)
        assert bench.lease.holding.idle()
        assert bench.lease.holding.money(boot_clock()) == RICH


async def test_money_that_is_only_lent_out_is_waited_for() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 2)), money=RICH)
        first = await bench.decide(routed=True)
        enough_for_one = NanoUsd(first.reserved + 1)
        bench.router.settle(first.id, None)
        assert first.reserved > 0
        async with Bench(BIG) as poor:
            poor.lease.grant(slots_of((BIG, 2)), money=enough_for_one)
            held = await poor.decide(routed=True)
            waits = poor.decide(routed=True)
            await poor.until(lambda: poor.router.waiting == 1)
            poor.router.settle(held.id, None)
            assert (await waits).reserved == first.reserved


def price_of(spec: Spec, quality: float) -> float:
    """Return the slot price at which an answer of `spec` is worth its quality less `quality`."""
    return quality / fleet_of([spec]).models[0].variants[0].latency.service_time(50.0)


@pytest.mark.parametrize("price", [0.5, 1.5, 20.0])
async def test_a_free_slot_is_taken_at_once_whatever_its_price(price: float) -> None:
    async with Bench(BIG) as bench:
        bench.lease.slot_prices = {BIG.key: price_of(BIG, price)}
        bench.lease.grant(slots_of((BIG, 3)))
        alone = bench.decide()
        await asyncio.sleep(0)
        assert bench.router.waiting == 0
        assert (await alone).considered.figures[4, 0] < BIG.quality
        bench.lease.grant({})
        calls = [bench.decide() for _ in range(2)]
        await bench.until(lambda: bench.router.waiting == 2)
        bench.lease.grant(slots_of((BIG, 3)))
        async with asyncio.timeout(5.0):
            together = await asyncio.gather(*calls)
        assert {decision.batch_size for decision in together} == {2}


async def test_prices_above_every_answers_worth_still_choose_among_models() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.slot_prices = {SMALL.key: price_of(SMALL, 1.5), BIG.key: price_of(BIG, 2.5)}
        bench.lease.grant(slots_of((SMALL, 2), (BIG, 2)))
        decision = await bench.decide()
        assert (decision.variant, decision.reason) == (SMALL.key, Reason.BEST_VALUE)


async def test_what_waited_a_service_time_for_its_favourite_takes_another_free_slot() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.slot_prices = {SMALL.key: price_of(SMALL, 4.0), BIG.key: price_of(BIG, 1.5)}
        bench.lease.grant(slots_of((SMALL, 1)))
        call = bench.decide()
        await bench.until(lambda: bench.router.waiting == 1)
        async with asyncio.timeout(5.0):
            decision = await call
        assert decision.variant == SMALL.key
        seconds = fleet_of([BIG]).models[0].variants[0].latency.service_time(50.0)
        assert decision.waited >= seconds / 2


async def test_money_that_is_worth_more_to_others_is_not_spent_however_long_a_request_waits() -> None:
    cheap = replace(SMALL, pricing=replace(SMALL.pricing, input_femto=0, output_femto=0))
    async with Bench(cheap, BIG) as bench:
        bench.lease.money_price = 1e6  # BIG costs more than an answer and its shed penalty are worth
        bench.lease.grant(slots_of((BIG, 1)), money=RICH)
        call = bench.decide(within=3.0)
        await bench.until(lambda: bench.wanted() == {cheap.key: 1})
        await asyncio.sleep(0)
        assert bench.router.waiting == 1
        bench.lease.grant(slots_of((cheap, 1), (BIG, 1)), money=RICH)
        decision = await call
        assert decision.variant == cheap.key
        assert decision.considered.excluded_by[1] == "TooDear"


async def test_the_cheapest_answer_is_given_even_where_money_is_worth_more() -> None:
    async with Bench(BIG) as bench:
        bench.lease.money_price = 1e6
        bench.lease.grant(slots_of((BIG, 1)), money=RICH)
        assert (await bench.decide()).variant == BIG.key


async def test_an_offline_batch_which_does_not_wait_takes_every_slot_that_is_free() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.slot_prices = {SMALL.key: price_of(SMALL, 4.0), BIG.key: price_of(BIG, 1.5)}
        bench.lease.grant(slots_of((SMALL, 1), (BIG, 1)))
        outcomes, _ = await bench.router.decide_all([bench.ask(within=0.5), bench.ask(within=0.5)])
        placed = [outcome.variant for outcome in outcomes if isinstance(outcome, Decision)]
        assert sorted(placed, key=str) == [BIG.key, SMALL.key]


async def test_a_model_that_would_come_too_late_is_left_out() -> None:
    slow = replace(BIG, declared=SLOW)
    async with Bench(SMALL, slow) as bench:
        bench.lease.grant(slots_of((SMALL, 1), (slow, 1)))
        decision = await bench.decide(within=1.0)
        assert decision.variant == SMALL.key
        assert decision.considered.excluded_by == ("", "TooLate")
        assert (await bench.decide()).variant == slow.key


async def test_a_request_that_no_model_can_answer_in_time_is_refused_without_waiting() -> None:
    slow = replace(BIG, declared=SLOW)
    async with Bench(slow) as bench:
        bench.lease.grant(slots_of((slow, 1)), money=RICH)
        with pytest.raises(Failure, match=r"no model is expected to answer in the .* s left") as caught:
            await bench.decide(within=1.0)
        assert caught.value.fault is Fault.DEADLINE
        assert bench.lease.holding.idle()
        assert bench.lease.holding.money(boot_clock()) == RICH


async def test_what_waits_is_shed_when_even_the_fastest_model_would_come_too_late() -> None:
    slow = replace(BIG, declared=SLOW)
    async with Bench(slow) as bench:
        bench.lease.grant({})
        seconds = fleet_of([slow]).models[0].variants[0].latency.service_time(50.0)
        ask = bench.ask(within=seconds + 0.3)
        with pytest.raises(Failure, match="NoFreeSlot"):
            await bench.router.decide(ask)
        assert boot_clock() < ask.deadline
        assert bench.router.waiting == 0


async def test_a_request_that_is_only_routed_may_be_answered_after_its_deadline() -> None:
    slow = replace(BIG, declared=SLOW)
    async with Bench(slow) as bench:
        bench.lease.grant(slots_of((slow, 1)))
        decision = await bench.router.decide(replace(bench.ask(within=1.0), routed=True))
        assert decision.variant == slow.key


async def test_shutting_down_ends_what_waits_and_what_comes() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant({})
        call = bench.decide()
        await bench.until(lambda: bench.router.waiting == 1)
        assert not await bench.router.drain(0.0)
        with pytest.raises(Failure, match="Draining"):
            await call
        with pytest.raises(Failure, match="Draining"):
            bench.ask()


async def test_requests_for_a_full_model_do_not_block_those_for_another() -> None:
    policy = replace(policy_of(), batching=Batching(max_size=4, max_wait=0.01))
    async with Bench(SMALL, BIG, policy=policy) as bench:
        bench.lease.grant({})
        blocked = [bench.decide(model="big", gold=True) for _ in range(10)]
        others = [bench.decide(model="small") for _ in range(10)]
        await bench.until(lambda: bench.router.waiting == 20)
        bench.lease.grant(slots_of((SMALL, 10)))
        async with asyncio.timeout(5.0):
            placed = await asyncio.gather(*others)
        assert {decision.variant for decision in placed} == {SMALL.key}
        assert bench.router.waiting == 10
        for call in blocked:
            call.cancel()
        await asyncio.wait(blocked)


async def test_a_long_queue_goes_through_in_batches_of_the_windows_size() -> None:
    policy = replace(policy_of(), batching=Batching(max_size=8, max_wait=0.005))
    async with Bench(SMALL, BIG, policy=policy) as bench:
        bench.lease.grant({})
        calls = [bench.decide() for _ in range(100)]
        await bench.until(lambda: bench.router.waiting == 100)
        bench.lease.grant(slots_of((SMALL, 60), (BIG, 60)))
        async with asyncio.timeout(5.0):
            decisions = await asyncio.gather(*calls)
        assert max(decision.batch_size for decision in decisions) == 8
        assert sum(decision.variant == BIG.key for decision in decisions) == 60


async def test_a_request_that_was_passed_over_asks_for_whatever_would_do() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant({})
        call = bench.decide()
        await bench.until(lambda: bench.wanted() == {BIG.key: 1})
        await bench.until(lambda: bench.wanted() == {SMALL.key: 1, BIG.key: 1})
        call.cancel()
        await asyncio.wait([call])


async def test_a_better_model_without_any_leased_slot_does_not_open_the_window() -> None:
    async with Bench(SMALL, BIG) as bench:
        bench.lease.grant(slots_of((SMALL, 9)))
        for _ in range(3):
            decision = await bench.decide()
            assert decision.reason is Reason.SLOTS_BIND
            assert decision.certificate.binding == ()
        bench.lease.grant(slots_of((SMALL, 9), (BIG, 1)))
        assert (await bench.decide()).variant == BIG.key
        assert (await bench.decide()).certificate.binding == ("slots:big/gpu",)


async def test_a_caller_that_leaves_the_queue_leaves_the_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(Telemetry, "queue", lambda _, length: lengths.append(length))
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 1)))
        first = await bench.decide(routed=True)
        second = bench.decide(routed=True)
        await bench.until(lambda: bench.router.waiting == 1)
        second.cancel()
        await asyncio.wait([second])
        assert lengths[-1] == 0
        bench.router.settle(first.id, None)


class Skipping:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return boot_clock() + self.ahead


async def test_the_time_of_a_decision_is_without_the_time_in_which_no_slot_was_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(Telemetry, "deciding", lambda _, taken: seconds.append(taken))
    clock = Skipping()
    async with Bench(BIG, clock=clock) as bench:
        bench.lease.grant(slots_of((BIG, 1)))
        first = await bench.decide(routed=True)
        second = bench.decide(routed=True)
        await bench.until(lambda: bench.router.waiting == 1)
        clock.ahead += 5.0
        bench.router.settle(first.id, None)
        assert (await second).waited >= 5.0
        assert len(seconds) == 2
        assert max(seconds) < 5.0


async def test_the_time_of_a_decision_is_with_the_time_in_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: list[float] = []
    monkeypatch.setattr(Telemetry, "deciding", lambda _, taken: seconds.append(taken))
    clock = Skipping()
    policy = replace(policy_of(), batching=Batching(max_size=64, max_wait=5.0))
    async with Bench(SMALL, BIG, policy=policy, clock=clock) as bench:
        bench.lease.grant(slots_of((SMALL, 9)))
        blocked = bench.decide(model="big")  # which opens the window
        await bench.until(lambda: bench.router.waiting == 1)
        gathered = bench.decide(model="small")
        await bench.until(lambda: bench.router.waiting == 2)
        clock.ahead += 6.0
        bench.lease.grant(slots_of((SMALL, 9)))
        assert (await gathered).variant == SMALL.key
        assert seconds[-1] >= 6.0
        blocked.cancel()
        await asyncio.wait([blocked])


async def test_what_many_want_is_added_up_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Mapping[VariantKey, Want]] = []
    async with Bench(BIG) as bench:
        bench.lease.grant({})
        monkeypatch.setattr(bench.lease, "want", lambda wants, _: told.append(wants))
        monkeypatch.setattr(batch, "TELL_WITHIN", 3600.0)
        calls = []
        for waiting in range(1, 21):
            calls.append(bench.decide())
            while bench.router.waiting < waiting:  # noqa: ASYNC110 - it tells nobody, as above
                await asyncio.sleep(0)
        assert len(told) == 1
        monkeypatch.setattr(batch, "TELL_WITHIN", 0.0)
        calls.pop().cancel()
        await bench.until(lambda: len(told) > 1)
        assert told[-1][BIG.key].slots == 19
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)


async def test_a_cheaper_model_chosen_for_the_price_of_money_says_so() -> None:
    dear = Spec("dear", 0.8, pricing=Pricing(10**13, 10**13))
    async with Bench(SMALL, dear) as bench:
        bench.lease.grant(slots_of((SMALL, 1), (dear, 1)))
        cases = ((0.0, Reason.BEST_VALUE, "dear"), (1e3, Reason.BUDGET_BINDS, "small"))
        for money_price, reason, model in cases:
            bench.lease.money_price = money_price
            decision = await bench.decide(routed=True)
            assert (decision.variant.model, decision.reason) == (model, reason)
            assert decision.considered.money_price == money_price
            bench.router.settle(decision.id, None)


async def test_a_settle_beyond_the_reserve_is_refused_and_the_true_one_still_counts() -> None:
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 1)), money=RICH)
        decision = await bench.decide(routed=True)
        with pytest.raises(Failure, match="more than the") as refused:
            bench.router.settle(decision.id, Usage(900_000, 4_000_000_000))
        assert refused.value.fault is Fault.BAD_REQUEST
        assert bench.router.unsettled == 1
        settled = bench.router.settle(decision.id, Usage(1, 1))
        assert (settled.repeated, settled.cost) == (False, decision.pricing.cost(1, 1))


async def test_a_decision_that_never_reached_a_model_is_cancelled_so_that_no_quota_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries: list[Entry] = []
    async with Bench(BIG) as bench:
        bench.lease.grant(slots_of((BIG, 1)), money=RICH)
        monkeypatch.setattr(bench.lease.holding, "_record", entries.append)
        decision = await bench.decide(routed=True)
        settled = bench.router.settle(decision.id, None)
        assert (settled.repeated, settled.cost, bench.router.unsettled) == (False, 0, 0)
    assert entries[-1] == Ended(decision.reservation, {})


async def test_an_endpoint_that_refused_is_left_alone_while_another_can_be_reached() -> None:
    now = 0.0
    unreachable = Unreachable(lambda: now)
    dead = EndpointUrl("http://dead")
    assert not unreachable.leave_alone([dead], now)
    unreachable.refused(dead)
    served, alive = EndpointUrl("http://dead#dead/gpu"), EndpointUrl("http://alive")
    assert unreachable.leave_alone([served, alive], now) == {served}
    now = LEFT_ALONE
    assert not unreachable.leave_alone([dead], now)


async def test_what_callers_say_of_routed_requests_opens_a_breaker_and_closes_it() -> None:
    async with Bench(SMALL, BIG, policy=policy_of(fallback=Fallback(breaker=Breaker(3, 0.2)))) as bench:
        bench.lease.grant(slots_of((SMALL, 4), (BIG, 4)))
        used = Usage(1, 1)
        late = await bench.decide(routed=True)
        for _ in range(3):
            failed = await bench.decide(routed=True)
            assert failed.variant == BIG.key
            bench.router.settle(failed.id, used, broken=True)
        elsewhere = await bench.decide(routed=True)
        assert elsewhere.variant == SMALL.key
        bench.router.settle(late.id, used)
        assert (await bench.decide(routed=True)).variant == SMALL.key, "it began before"
        placer = bench.router._batcher.queue.placer
        await bench.until(lambda: not placer.shut(boot_clock()))
        probe = await bench.decide(routed=True)
        assert probe.variant == BIG.key
        assert (await bench.decide(routed=True)).variant == SMALL.key, "one at a time"
        bench.router.settle(probe.id, used)
        assert (await bench.decide(routed=True)).variant == BIG.key


async def test_a_routed_request_that_reached_no_server_tells_only_where_its_caller_calls_that_an_error() -> (
    None
):
    async with Bench(SMALL, BIG, policy=policy_of(fallback=Fallback(breaker=Breaker(2, 100.0)))) as bench:
        bench.lease.grant(slots_of((SMALL, 4), (BIG, 4)))
        for broken in (False, False, False, True, True):
            decision = await bench.decide(routed=True)
            assert decision.variant == BIG.key
            bench.router.settle(decision.id, None, broken=broken)
        assert (await bench.decide(routed=True)).variant == SMALL.key
