"""Leases over real streams: one leader's capacity service and sidecars' clients, in one process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast

import grpc.aio
import pytest
from modelfleet.v1 import capacity_pb2, capacity_pb2_grpc
from modelfleet_core.demand.sketch import Sketch
from modelfleet_core.estimation.experience import Experience
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.messages import Need, Want
from modelfleet_core.leasing.reservations import Refused, Reservation
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES
from modelfleet_core.values import NANO, AccountName, ModelName, NanoUsd, ObjectKey
from modelfleet_operator.ledgers import LeadershipLostError
from modelfleet_sidecar.lease import LeaseClient, boot_clock
from support.leases import (
    FLEET,
    LARGE,
    PATIENCE,
    POD_A,
    POD_B,
    POLICY,
    SECOND,
    CapacityService,
    MemoryLedgers,
    capacity_service,
    free_money,
    leasing,
    publish_documents,
    publish_slots,
    sidecar_id,
    total_free,
    until,
)
from support.scored_answers import log_of
from support.sketches import cell, offers

pytestmark = pytest.mark.integration
USD = NANO


def needs(amount: int) -> dict[AccountName, Need]:
    """Return that waiting requests would charge `amount` to the budget, the first of them next to nothing."""
    return {BUDGET: Need(amount, 1, 1.0, 0.0)}


def reserve(client: LeaseClient, amount: int) -> Reservation | Refused:
    """Take a slot at `POD_A` and `amount` of the budget, if there is one, for a minute."""
    charges = {BUDGET: amount} if client.policy is not None and client.policy.budget is not None else {}
    now = client.now()
    return client.holding.reserve(now, POD_A, NanoUsd(amount), now + 60, charges=charges)


async def test_idle_sidecars_share_the_slots_so_that_each_can_start_at_once() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        await until(one, lambda: total_free(one) == 4)
        await until(two, lambda: total_free(two) == 4)
        assert one.fleet is not None
        assert one.policy is not None
        assert one.holding.variant_of(POD_A) == LARGE


async def test_a_burst_moves_slots_from_the_idle_to_the_wanting_sidecar_and_back() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, budget=None) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        await until(two, lambda: total_free(one) == total_free(two) == 4)
        one.want({LARGE: Want(20)}, {})
        await until(one, lambda: total_free(one) == 8)
        assert total_free(two) == 0
        busy = [reserve(one, 0) for _ in range(8)]
        two.want({LARGE: Want(3)}, {})
        one.want({LARGE: Want(8)}, {})
        for taken in busy[:3]:
            assert isinstance(taken, Reservation)
            one.holding.settle(taken.id, None, one.now())
        one.want({LARGE: Want(5)}, {})
        await until(two, lambda: total_free(two) == 3)
        assert sum(one.holding.in_flight().values()) == 5


async def test_few_slots_are_borrowed_and_go_back_when_unused() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 2}, budget=None) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
        leasing(service, "three") as three,
    ):
        await until(three, lambda: three.connected)
        one.want({LARGE: Want(2)}, {})
        await until(one, lambda: total_free(one) == 2)
        one.want({}, {})
        await until(one, lambda: total_free(one) == 0)
        two.want({LARGE: Want(2)}, {})
        await until(two, lambda: total_free(two) == 2)


async def test_slots_in_flight_stay_held_until_they_come_back() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 2}, budget=None) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        one.want({LARGE: Want(2)}, {})
        await until(one, lambda: total_free(one) == 2)
        busy = [reserve(one, 0) for _ in range(2)]
        one.want({LARGE: Want(2)}, {})
        two.want({LARGE: Want(2)}, {})
        await until(one, lambda: LARGE in one.holding.lease._asks)
        assert (total_free(one), total_free(two)) == (0, 0)
        first = busy[0]
        assert isinstance(first, Reservation)
        one.holding.settle(first.id, None, one.now())
        await until(two, lambda: total_free(two) == 1)
        assert sum(one.holding.in_flight().values()) == 1


class _Saw:
    """What a sidecar tells in each report that it saw."""

    def __init__(self, experience: Experience) -> None:
        self.experience = experience

    def changes(self) -> Experience:
        return self.experience

    def sent(self, sequence: int) -> None: ...
    def answered_to(self, sequence: int) -> None: ...
    def unheard(self) -> None: ...


async def test_what_a_sidecar_saw_teaches_its_policy_and_nonsense_costs_no_lease() -> None:
    heard: list[tuple[str, ObjectKey]] = []
    refused: list[None] = []
    good = log_of("large", 1.0).changes()
    (model,) = good.models
    bad = replace(good, models=(replace(model, moments=model.moments[:-1]),))
    async with (
        capacity_service(
            MemoryLedgers(), {POD_A: 2}, budget=None, refused_experience=lambda: refused.append(None)
        ) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        service.publisher.set_learn(lambda sidecar, policy, _: heard.append((sidecar.pod, policy)))
        for client, experience in ((one, bad), (two, good)):
            client.tell_of(_Saw(experience))
            client.want({LARGE: Want(1)}, {})
        await until(one, lambda: total_free(one) == 1 and bool(refused))
        await until(two, lambda: total_free(two) == 1 and bool(heard))
        assert one.connected
        assert set(heard) == {(sidecar_id("two").pod, POLICY)}


async def test_slots_that_come_free_while_no_operator_leads_stay_where_they_are() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 2}, budget=None) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        one.want({LARGE: Want(2)}, {})
        await until(one, lambda: total_free(one) == 2)
        busy = [reserve(one, 0) for _ in range(2)]
        two.want({LARGE: Want(2)}, {})
        await until(one, lambda: LARGE in one.holding.lease._asks)
        await service.publisher.stop()
        await until(one, lambda: not one.connected)
        for taken in busy:
            assert isinstance(taken, Reservation)
            one.holding.settle(taken.id, None, one.now())
        one.want({LARGE: Want(2)}, {})
        assert total_free(one) == 2


async def test_lost_capacity_shrinks_leases_and_won_capacity_grows_them() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 4, POD_B: 4}) as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        publish_slots(service.publisher, {POD_B: 4})
        await until(one, lambda: dict(one.holding.free(one.now())) == {POD_B: 4})
        publish_slots(service.publisher, {POD_A: 2, POD_B: 4})
        await until(one, lambda: dict(one.holding.free(one.now())) == {POD_A: 2, POD_B: 4})


async def test_money_comes_on_demand_and_an_exhausted_budget_refuses() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        await until(one, lambda: total_free(one) == 4)
        assert free_money(one) == 0
        one.want({LARGE: Want(1)}, needs(7 * USD))
        await until(one, lambda: free_money(one) == 7 * USD)
        taken = reserve(one, 7 * USD)
        assert isinstance(taken, Reservation)
        two.want({LARGE: Want(1)}, needs(4 * USD))
        await until(two, lambda: free_money(two) == 3 * USD)
        refused = reserve(two, 4 * USD)
        assert isinstance(refused, Refused)
        assert refused.account == BUDGET
        (record,) = store.records.values()
        assert record.accounts[BUDGET].watermark == 10 * USD
        one.holding.settle(taken.id, NanoUsd(2 * USD), one.now())
        one.want({}, {})
        await until(two, lambda: free_money(two) == 4 * USD)
        usage = service.publisher.usage(POLICY)
        assert usage is not None
        assert usage.spent == 2 * USD
        assert usage.granted <= usage.limit == 10 * USD


async def test_no_money_leaves_before_the_ledger_holds_it() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        store.open.clear()
        one.want({LARGE: Want(1)}, needs(5 * USD))
        applied = one.holding.applied
        service.publisher.set_prices({}, {POLICY: 1.0})
        await until(one, lambda: one.holding.applied > applied and one.money_price == 1.0)
        assert free_money(one) == 0
        store.open.set()
        await until(one, lambda: free_money(one) == 5 * USD)


async def test_without_a_budget_there_is_no_account_and_no_limit() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, budget=None) as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        assert free_money(one) is None
        assert isinstance(reserve(one, 10**15), Reservation)


async def test_after_a_restart_with_a_new_epoch_leases_form_anew_and_the_ledger_goes_on() -> None:
    store = MemoryLedgers()
    async with capacity_service(store, {POD_A: 8}, budget="10") as first, leasing(first, "one") as one:
        one.want({LARGE: Want(8)}, needs(6 * USD))
        await until(one, lambda: total_free(one) == 8 and free_money(one) == 6 * USD)
        taken = reserve(one, 6 * USD)
        assert isinstance(taken, Reservation)
        await first.kill()
        assert total_free(one) == 7  # the lease goes on without its leader
        async with (
            capacity_service(
                store, {POD_A: 8}, epoch=2, may_hold=("uid-one", "uid-lost"), budget="10", port=first.port
            ) as second,
            leasing(second, "two") as two,
        ):
            await until(one, lambda: one.holding.epoch == 2 and one.holding.applied > 0)
            one.want({}, {})
            two.want({LARGE: Want(3)}, needs(9 * USD))
            await until(two, lambda: (free_money(two) or 0) > 0)
            assert free_money(two) <= 4 * USD  # type: ignore[operator]
            second.publisher.forget("uid-lost")
            await until(two, lambda: total_free(two) == 3)


async def test_a_new_leader_grants_no_slot_that_someone_unheard_may_hold() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, epoch=2, may_hold=("uid-silent", "uid-one")) as service,
        leasing(service, "one") as one,
    ):
        one.want({LARGE: Want(8)}, {})
        await until(one, lambda: one.connected)
        assert total_free(one) == 0
        async with leasing(service, "silent"):
            await until(one, lambda: total_free(one) == 8)


async def test_a_foreign_epoch_in_the_ledger_ends_leadership() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        (period,) = store.records
        store.records[period] = replace(store.records[period], epoch=7, version="77")
        one.want({LARGE: Want(1)}, needs(5 * USD))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LeadershipLostError, match="epoch 7"):
                await service.run
        assert free_money(one) == 0


async def test_a_leader_that_lost_a_write_reads_the_ledger_anew_and_goes_on() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        (period,) = store.records
        store.records[period] = replace(store.records[period], version="5")
        one.want({LARGE: Want(1)}, needs(5 * USD))
        await until(one, lambda: free_money(one) == 5 * USD)
        assert not service.run.done()


async def test_a_new_period_opens_a_new_account_and_the_old_money_is_not_carried_over() -> None:
    store = MemoryLedgers()
    time = [datetime(2026, 11, 22, 23, 59, 30, tzinfo=UTC)]
    async with (
        capacity_service(store, {POD_A: 8}, budget="10", wall_clock=lambda: time[0]) as service,
        leasing(service, "one") as one,
    ):
        one.want({LARGE: Want(1)}, needs(8 * USD))
        await until(one, lambda: free_money(one) == 8 * USD)
        taken = reserve(one, 8 * USD)
        assert isinstance(taken, Reservation)
        time[0] += timedelta(minutes=1)
        one.want({LARGE: Want(1)}, needs(9 * USD))
        await until(one, lambda: free_money(one) == 9 * USD)
        assert len(store.records) == 2
        one.holding.settle(taken.id, None, one.now())
        assert free_money(one) == 9 * USD


async def test_a_drained_sidecar_gives_everything_back_and_hears_so() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        one.want({LARGE: Want(8)}, needs(10 * USD))
        await until(one, lambda: total_free(one) == 8 and free_money(one) == 10 * USD)
        two.want({LARGE: Want(8)}, needs(10 * USD))
        assert await one.drain(PATIENCE)
        await until(two, lambda: total_free(two) == 8 and free_money(two) == 10 * USD)


async def test_a_sidecar_that_no_policy_selects_is_told_why() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}) as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        service.publisher.set_policy_of(lambda sidecar: "no policy selects this pod")
        await until(one, lambda: one.refusal == "no policy selects this pod" and not total_free(one))
        assert one.policy is None


async def test_a_changed_policy_reaches_its_sidecars() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: one.policy is not None)
        publish_documents(service.publisher, budget=None)
        await until(one, lambda: one.policy is not None and one.policy.budget is None)
        assert free_money(one) is None


async def test_a_restarted_sidecar_gets_what_its_earlier_start_held() -> None:
    ahead = [0.0]
    async with capacity_service(
        MemoryLedgers(), {POD_A: 8}, clock=lambda: boot_clock() + ahead[0]
    ) as service:
        async with leasing(service, "one") as one:
            await until(one, lambda: total_free(one) == 8)
        async with leasing(service, "one", boot="2") as again:
            again.want({LARGE: Want(8)}, {})
            await until(again, lambda: again.connected)
            assert total_free(again) == 0
            ahead[0] = UPSTREAM_NOTICES
            await until(again, lambda: total_free(again) == 8)


async def test_a_leader_that_is_not_sure_of_its_leadership_grants_nothing() -> None:
    sure = [True]
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, leads=lambda: sure[0]) as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        sure[0] = False
        publish_slots(service.publisher, {POD_A: 4})
        one.want({LARGE: Want(3)}, {})
        assert not await one.wait_change(0.3)
        sure[0] = True
        await until(one, lambda: total_free(one) == 4)


async def test_a_ledger_that_can_not_be_read_holds_up_only_its_own_policy() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget=None) as service,
        leasing(service, "one") as one,
        leasing(service, "two") as two,
    ):
        await until(two, lambda: total_free(two) == 4)
        store.readable = False
        publish_documents(service.publisher, budget="10", second=True)
        service.publisher.set_policy_of(lambda s: (POLICY if s.pod == "one" else SECOND, FLEET))
        await until(two, lambda: two.policy is not None and two.policy.key == SECOND)
        applied = one.holding.applied
        publish_slots(service.publisher, {POD_A: 8, POD_B: 2})
        await until(two, lambda: POD_B in two.holding.free(two.now()))
        assert one.holding.applied == applied
        store.readable = True
        await until(one, lambda: one.holding.applied > applied)


async def test_a_sidecar_follows_no_leader_older_than_the_one_it_knows() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, epoch=5, budget=None) as newer,
        leasing(newer, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        await newer.kill()
        async with capacity_service(store, {POD_A: 8}, epoch=4, budget=None, port=newer.port) as older:
            async with leasing(older, "two") as two:  # by the time it has slots, the other has tried
                await until(two, lambda: two.connected)
                await until(one, lambda: "older than epoch 5" in one.trouble)
            assert one.holding.epoch == 5
            assert [view.id.pod for view in older.publisher.sidecars()] == ["two"]


async def test_an_absurd_bill_stops_no_report() -> None:
    store = MemoryLedgers()
    async with capacity_service(store, {POD_A: 8}) as service, leasing(service, "one") as one:
        one.want({LARGE: Want(1)}, needs(1))
        await until(one, lambda: (free_money(one) or 0) > 0)
        taken = reserve(one, 1)
        assert isinstance(taken, Reservation)
        one.holding.settle(taken.id, NanoUsd(2**70), one.now())
        before = _heard(service, "one")
        one.want({LARGE: Want(2)}, {})
        await until(one, lambda: _heard(service, "one") > before + 1)


def _heard(service: CapacityService, pod: str) -> int:
    book = service.publisher._book
    assert book is not None
    return next(holder.report.sequence for holder in book.holders() if holder.id.pod == pod)


async def test_demand_is_heard_also_by_the_next_leader_and_told_only_where_it_changed() -> None:
    store, math = MemoryLedgers(), cell("math/5")
    async with capacity_service(store, {POD_A: 8}) as first, leasing(first, "one") as one:

        def asks(service: CapacityService) -> bool:
            one.record(*math, offers(large=(0.5, 0.01, 2.0)))
            shared = service.publisher.shared_demand()
            return bool(shared.classes) and shared.sidecars == (sidecar_id("one"),)

        await until(one, lambda: total_free(one) == 8)
        await until(one, lambda: asks(first))
        (kind,) = first.publisher.demand()
        assert (kind.policy, kind.task) == (POLICY, "math/5")
        assert kind.offers[ModelName("large")].quality == pytest.approx(0.5)
        await until(one, lambda: not one._sketch.changes().cells)  # all is told
        await first.kill()
        async with capacity_service(
            store, {POD_A: 8}, epoch=2, may_hold=("uid-one",), port=first.port
        ) as second:
            await until(one, lambda: asks(second))


async def test_a_report_that_can_not_be_made_costs_one_stream_and_not_the_lease() -> None:
    store = MemoryLedgers()
    async with (
        capacity_service(store, {POD_A: 8}, budget=None) as service,
        leasing(service, "one") as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        sketch, one._sketch = one._sketch, cast(Sketch, None)
        await until(one, lambda: not one.connected)
        assert "AttributeError" in one.trouble
        one._sketch = sketch
        await until(one, lambda: one.connected)
        publish_slots(service.publisher, {POD_A: 8, POD_B: 2})
        await until(one, lambda: total_free(one) == 10)


async def test_a_stopping_leader_leaves_no_spare_money_and_keeps_leases_alive() -> None:
    store = MemoryLedgers()
    async with capacity_service(store, {POD_A: 8}, budget="10") as service, leasing(service, "one") as one:
        one.want({LARGE: Want(1)}, needs(5 * USD))
        await until(one, lambda: free_money(one) == 5 * USD)
        await service.publisher.stop()
        (record,) = store.records.values()
        assert record.accounts[BUDGET].watermark == 5 * USD
        await until(one, lambda: not one.connected)
        assert total_free(one) == 8


async def test_a_stopping_leader_tells_its_streams_also_while_its_ledgers_can_not_be_written() -> None:
    store = MemoryLedgers()
    async with capacity_service(store, {POD_A: 1}) as service, leasing(service, "one") as client:
        await until(client, lambda: client.connected)
        store.open.clear()
        client.want({}, needs(USD))
        await until(client, lambda: bool(service.publisher._ledgers and service.publisher._ledgers._tasks))
        await service.publisher.stop(within=0.01)
        await until(client, lambda: "stops leading" in client.trouble)


async def test_a_stopping_leader_ends_its_streams_before_it_waits_for_its_ledgers() -> None:
    store = MemoryLedgers()
    async with capacity_service(store, {POD_A: 1}) as service, leasing(service, "one") as client:
        await until(client, lambda: client.connected)
        store.open.clear()
        client.want({}, needs(USD))
        await until(client, lambda: bool(service.publisher._ledgers and service.publisher._ledgers._tasks))
        stopping = asyncio.create_task(service.publisher.stop(within=PATIENCE))
        await until(client, lambda: "stops leading" in client.trouble)
        assert not stopping.done()
        store.open.set()
        await stopping


async def test_a_stopping_leader_logs_no_error_for_the_streams_that_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with capacity_service(MemoryLedgers(), {POD_A: 8}) as service, leasing(service, "one") as one:
        await until(one, lambda: total_free(one) == 8)
        await service.publisher.stop()
        await until(one, lambda: not one.connected)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_report_beyond_bounds_ends_only_its_own_stream() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}) as service,
        leasing(service, "one") as one,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        await until(one, lambda: total_free(one) == 8)
        call = capacity_pb2_grpc.CapacityStub(channel).Lease()
        await call.read()
        await call.write(capacity_pb2.LeaseReport(epoch=1, sequence=1))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call.read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "identity.namespace" in (failure.value.details() or "")
        assert one.connected


async def test_the_snapshot_shows_who_holds_what() -> None:
    async with (
        capacity_service(MemoryLedgers(), {POD_A: 8}, budget="10") as service,
        leasing(service, "one") as one,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        await until(one, lambda: total_free(one) == 8)
        stub = capacity_pb2_grpc.CapacityStub(channel)
        snapshot = await stub.Snapshot(capacity_pb2.SnapshotRequest())
        assert snapshot.epoch == 1
        (endpoint,) = snapshot.endpoints
        assert (endpoint.endpoint, endpoint.slots, endpoint.held) == (POD_A, 8, 8)
        (ledger,) = snapshot.ledgers
        assert (ledger.policy, ledger.limit) == ("ml/assistant", 10 * USD)
        assert [view.identity.pod for view in snapshot.sidecars] == ["one"]
        assert sidecar_id("one").uid == snapshot.sidecars[0].identity.uid
