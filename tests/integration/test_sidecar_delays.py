"""What the sidecar says of its own delays."""

from __future__ import annotations

import asyncio

import aiohttp
from support.sidecars import Spec, running_sidecar

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}


async def test_each_decision_counts_once_whether_it_waited_for_a_slot_or_not() -> None:
    async with running_sidecar(Spec("only", slots=1)) as rig, aiohttp.ClientSession(rig.http) as client:
        answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=CHAT) for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        figure = rig.sidecar.telemetry.registry.get_sample_value
        assert figure("modelfleet_sidecar_decide_seconds_count") == 5
        waited = figure("modelfleet_sidecar_wait_seconds_sum", {"tier": "bronze"})
        deciding = figure("modelfleet_sidecar_decide_seconds_sum")
        assert waited is not None
        assert deciding is not None
        assert deciding < waited
