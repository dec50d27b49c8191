"""What a sidecar without an operator learns, hands on with its lease, and has again after a restart."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import yaml
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.estimation.learned import decode
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Grant
from modelfleet_sidecar.standalone.leader import LocalLeader, MemoryLedgers
from modelfleet_sidecar.standalone.learning import Learning
from modelfleet_sidecar.standalone.manifests import Declared, read_manifests
from modelfleet_sidecar.standalone.state import StateFolder
from support.experiences import sidecar, teach
from support.standalone import fleet, policy


def declared(**spec: object) -> Declared:
    manifests = fleet({"small": "http://127.0.0.1:9", "large": "http://127.0.0.1:8"}), policy(**spec)
    return read_manifests(yaml.safe_dump_all(manifests).encode())


def leader_of(manifests: Declared) -> LocalLeader:
    return LocalLeader(
        manifests,
        epoch=1,
        ledgers=MemoryLedgers(),
        clock=lambda: 100.0,
        wall_clock=lambda: datetime(2026, 11, 22, tzinfo=UTC),
    )


def learning_of(leader: LocalLeader, state: StateFolder | None) -> Learning:
    return Learning(leader, state=state, clock=lambda: 100.0, wall_clock=lambda: 1000.0)


async def granted(leader: LocalLeader) -> Grant:
    """Return the first grant of a sidecar."""
    holding = Holding(sidecar(7))
    running = asyncio.create_task(leader.run())
    try:
        async with asyncio.timeout(10.0), leader.talk() as talk:
            assert holding.adopt((await talk.hear()).epoch)
            await talk.say(holding.report(100.0, demand=NO_DEMAND, fleet_version="", policy_version=""))
            return await talk.hear()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_scores_correct_the_estimates_and_are_there_after_a_restart(tmp_path: Path) -> None:
    log = ExperienceLog()
    teach(log, "small", 100, 0.9)
    teach(log, "large", 100, 0.2)
    leader = leader_of(declared())
    state = StateFolder(tmp_path)
    learning = learning_of(leader, state)
    learning.hear(sidecar(), log.changes())
    learning.tell()
    first = (await granted(leader)).learned
    assert first is not None
    assert set(decode(first.manifest).models) == {"small", "large"}
    await learning.keep()
    state.close()

    again = leader_of(declared())
    learning_of(again, StateFolder(tmp_path)).tell()
    assert (await granted(again)).learned == first


async def test_a_policy_that_shall_not_learn_does_not(tmp_path: Path) -> None:
    log = ExperienceLog()
    teach(log, "small", 100, 0.9)
    leader = leader_of(declared(learning={"enabled": False}))
    learning = learning_of(leader, None)
    learning.hear(sidecar(), log.changes())
    learning.tell()
    grant = await granted(leader)
    assert grant.learned is None or grant.learned.manifest == b""


async def test_what_is_kept_and_can_not_be_read_is_told_and_a_new_start_is_made(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.keep_learned(b"something else")
    leader = leader_of(declared())
    learning_of(leader, state).tell()
    assert (await granted(leader)).policy is not None
