"""Endpoints come and go under traffic: none is lost, none goes where nothing is leased: G1, G2, G7."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import EndpointUrl
from support.callers import WAYS, caller_of
from support.sidecars import FAST, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

SERVERS = [Spec(name, slots=6, latency=FAST) for name in ("one", "two", "three", "four")]
CALLERS = 12
CALLS = 20
"""Of each caller."""
CHANGE_EVERY = 4
"""Calls that end between two changes of the lease."""
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Change:
    """A lease from a moment on (seconds since 1970), and what was on its way to each endpoint by then."""

    at: float
    slots: Mapping[EndpointUrl, int]
    before: Mapping[EndpointUrl, int]


def change(rig: Rig, random: Random) -> Change:
    """Lease some slots of some servers, of one at least, and recall the others."""
    kept = random.sample(SERVERS, random.randint(1, len(SERVERS)))
    grants = {
        EndpointUrl(rig.servers[s.name].url): SlotGrant(s.key, random.randint(1, s.slots)) for s in kept
    }
    before = dict(rig.lease.holding.in_flight())
    at = time.time()
    rig.lease.grant(grants)
    return Change(at, {url: grant.slots for url, grant in grants.items()}, before)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_lease_that_changes_under_traffic_loses_nothing_and_is_kept(seed: int) -> None:
    random, ended, lost = Random(seed), 0, []
    async with (
        running_sidecar(*SERVERS, policy=policy_of(max_output_tokens=30)) as rig,
        caller_of(rig) as caller,
        asyncio.timeout(PATIENCE),
    ):
        changes = [change(rig, random)]

        async def calls(number: int) -> None:
            nonlocal ended
            for turn in range(CALLS):
                told = await caller.ask(WAYS[(number + turn) % len(WAYS)])
                if told.reason or not told.content:
                    lost.append(told)
                ended += 1
                if ended % CHANGE_EVERY == 0:
                    changes.append(change(rig, random))

        await asyncio.gather(*(calls(number) for number in range(CALLERS)))
        await rig.settled()
        assert lost == []
        records = [
            (EndpointUrl(rig.servers[spec.name].url), record)
            for spec in SERVERS
            for record in rig.servers[spec.name].records
        ]
        assert len(records) == len({record.request_id for _, record in records}) == CALLERS * CALLS
        assert len(changes) == 1 + CALLERS * CALLS // CHANGE_EVERY
        strays: Counter[tuple[float, EndpointUrl]] = Counter()
        for url, record in records:
            current = max((one for one in changes if one.at <= record.start), key=lambda one: one.at)
            on_its_way = current.before.get(url, 0)
            if url not in current.slots:
                strays[current.at, url] += 1
                assert strays[current.at, url] <= on_its_way
            assert record.in_flight_at_arrival < max(current.slots.get(url, 0), on_its_way)
            assert not record.over_concurrency
