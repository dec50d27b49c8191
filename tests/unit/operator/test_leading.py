"""At most one operator leads, epochs only rise, and a leader that can not renew stops in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from modelfleet_core.leasing.terms import UNKNOWN, Terms
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Conflict, LeaderLease, Record, Unavailable
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.leader import EPOCH_NAME, LEASE_NAME, Leader, Rhythm
from modelfleet_operator.lease_terms import inherited_terms, terms_text

QUICK = Rhythm(duration=10, renew_within=7, retry=0.001)
LEASE, EPOCH = ObjectKey("system", LEASE_NAME), ObjectKey("system", EPOCH_NAME)


class _Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Watched(EmbeddedCluster):
    """A cluster that says when its Lease is read and written."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.written = asyncio.Event(), asyncio.Event()

    async def read_lease(self, key: ObjectKey) -> LeaderLease | None:
        self.read.set()
        return await super().read_lease(key)

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        stored = await super().write_lease(lease)
        self.written.set()
        return stored

    async def times(self, event: asyncio.Event, count: int) -> None:
        """Wait until the Lease was read or written so often from now on."""
        async with asyncio.timeout(10):
            for _ in range(count):
                event.clear()
                await event.wait()


def _leader(cluster: EmbeddedCluster, identity: str, clock: _Clock, terms: str = "") -> Leader:
    def wall_clock() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=clock.now)

    return Leader(
        cluster,
        "system",
        identity,
        clock=clock,
        wall_clock=wall_clock,
        rhythm=QUICK,
        terms=lambda: terms,
    )


async def _win(leader: Leader) -> int:
    async with asyncio.timeout(10):
        return await leader.win()


async def test_the_first_leader_has_epoch_one_and_every_later_one_a_higher() -> None:
    cluster, clock, epochs = EmbeddedCluster(), _Clock(), []
    for number in range(3):
        leader = _leader(cluster, f"operator-{number}", clock)
        epochs.append(await _win(leader))
        assert leader.leads()
        await leader.release()
        assert not leader.leads()
    assert epochs == [1, 2, 3]


async def test_an_epoch_rises_even_when_the_lease_object_was_deleted() -> None:
    cluster, clock = EmbeddedCluster(), _Clock()
    assert await _win(_leader(cluster, "a", clock)) == 1
    cluster.delete("Lease", LEASE)
    assert await _win(_leader(cluster, "b", clock)) == 2


async def test_an_epoch_is_above_those_that_deployments_carry_from_an_earlier_installation() -> None:
    clock = _Clock()

    def wall_clock() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    leader = Leader(
        EmbeddedCluster(), "system", "a", clock=clock, wall_clock=wall_clock, rhythm=QUICK, seen=lambda: 7
    )
    assert await _win(leader) == 8


async def test_a_candidate_waits_until_the_lease_stood_still_for_its_duration() -> None:
    cluster, clock = _Watched(), _Clock()
    first, second = _leader(cluster, "a", clock), _leader(cluster, "b", clock)
    await _win(first)
    waiting = asyncio.create_task(second.win())
    for _ in range(4):  # the leader renews, so that time alone gives the candidate nothing
        clock.now += 5
        holding = asyncio.create_task(first.hold())
        await cluster.times(cluster.written, 1)
        holding.cancel()
        await cluster.times(cluster.read, 3)
        assert not waiting.done()
    clock.now += 9.9
    await cluster.times(cluster.read, 3)
    assert not waiting.done()
    clock.now += 0.2
    async with asyncio.timeout(10):
        assert await waiting == 2
    assert not first.leads()


async def test_a_leader_whose_lease_was_taken_says_so() -> None:
    cluster, clock = EmbeddedCluster(), _Clock()
    leader = _leader(cluster, "a", clock)
    await _win(leader)
    cluster.delete("Lease", LEASE)
    await _win(_leader(cluster, "b", clock))
    async with asyncio.timeout(10):
        assert "another operator" in await leader.hold()
    assert not leader.leads()


class _Unreachable(EmbeddedCluster):
    """A cluster whose API server goes away once it is told to."""

    away = False

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        if self.away:
            raise Unavailable("connection refused")
        return await super().write_lease(lease)


async def test_a_leader_that_can_not_renew_stops_before_another_may_start() -> None:
    cluster, clock = _Unreachable(), _Clock()
    leader = _leader(cluster, "a", clock)
    await _win(leader)
    cluster.away = True
    clock.now += 6.9
    assert leader.leads()
    clock.now += 0.2
    assert not leader.leads()
    async with asyncio.timeout(10):
        assert "could not be renewed for 7 s" in await leader.hold()
    await leader.release()  # an API server that is away does not keep the process from ending


async def test_an_epoch_that_was_changed_by_hand_stops_the_election_until_it_is_mended() -> None:
    cluster, clock = _Watched(), _Clock()
    broken = await cluster.write_record(Record(EPOCH, {"epoch": "seven"}, {}))
    leader = _leader(cluster, "a", clock)
    waiting = asyncio.create_task(leader.win())
    await cluster.times(cluster.written, 3)
    assert not waiting.done()
    await cluster.write_record(Record(EPOCH, {"epoch": "7"}, {}, broken.resource_version))
    async with asyncio.timeout(10):
        assert await waiting >= 8


class _Noted(_Unreachable):
    """A cluster on whose Lease object someone writes a note before us; then no write gets through."""

    note = False

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        if self.note and not self.away:
            stored = await self.read_lease(LEASE)
            assert stored is not None
            await super().write_lease(stored)
            self.away = True
            raise Conflict("the object has been modified")
        return await super().write_lease(lease)


async def test_a_note_on_the_lease_renews_nothing() -> None:
    """Candidates count from the note, so a leader that counted from when it found it would go on too long."""
    cluster, clock = _Noted(), _Clock()
    leader = _leader(cluster, "a", clock)
    await _win(leader)
    clock.now += 6.5
    cluster.note = True
    holding = asyncio.create_task(leader.hold())
    async with asyncio.timeout(10):
        while not cluster.away:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    clock.now += 0.6
    assert not leader.leads()
    async with asyncio.timeout(10):
        assert "could not be renewed" in await holding


async def test_a_leader_finds_the_terms_of_the_one_before_and_leaves_its_own_with_every_renewal() -> None:
    cluster, clock = _Watched(), _Clock()
    first = _leader(cluster, "a", clock, terms="first")
    await _win(first)
    assert first.inherited == ""
    holding = asyncio.create_task(first.hold())
    await cluster.times(cluster.written, 1)
    holding.cancel()
    await asyncio.wait({holding})
    clock.now += 60  # the first one stands still from now on
    second = _leader(cluster, "b", clock)
    waiting = asyncio.create_task(second.win())
    await cluster.times(cluster.read, 2)
    clock.now += 60
    async with asyncio.timeout(10):
        await waiting
    assert second.inherited == "first"


async def test_terms_found_stay_on_the_lease_until_a_leader_has_its_own() -> None:
    cluster, clock = EmbeddedCluster(), _Clock()
    first = _leader(cluster, "a", clock, terms="first")
    await _win(first)
    await first.release()
    second = _leader(cluster, "b", clock)
    await _win(second)
    await second.release()
    third = _leader(cluster, "c", clock)
    await _win(third)
    assert third.inherited == "first"


def test_terms_come_back_as_they_were_written() -> None:
    for terms in (Terms(30, 600, 4), Terms(5, 0.1, 0), UNKNOWN):
        assert inherited_terms(terms_text(terms)) == terms


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{",
        "[]",
        "7",
        '{"lease": 30, "request": 600}',
        '{"lease": 30, "request": 600, "floor": 0, "more": 1}',
        '{"lease": -1, "request": 600, "floor": 0}',
        '{"lease": 601, "request": 600, "floor": 0}',
        '{"lease": 30, "request": NaN, "floor": 0}',
        '{"lease": 30, "request": 600, "floor": "none"}',
        '{"lease": true, "request": 600, "floor": 0}',
        '{"lease": 30, "request": 600, "floor": 0}' + " " * 200,
        "[" * 200,
    ],
)
def test_terms_that_can_not_be_read_are_the_widest(written: str, caplog: pytest.LogCaptureFixture) -> None:
    assert inherited_terms(written) == UNKNOWN
    assert "does not say by which terms" in caplog.text
