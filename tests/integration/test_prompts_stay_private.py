"""What is asked and answered reaches its caller and the model alone: no log, metric or explanation (G20)."""

from __future__ import annotations

import json
import logging

import aiohttp
import grpc.aio
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.leasing.messages import SlotGrant
from support.scripted import Act, scripted_server
from support.sidecars import TRIED_ONCE, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
MARK = "zanzibar7431"
"""A word of every prompt, which the server quotes when it fails."""
ASKED = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": f"You are {MARK}."},
        {"role": "user", "content": f"Urgently prove that {MARK} is prime: def {MARK}(): pass"},
    ],
    "tools": [{"type": "function", "function": {"name": MARK}}],
    "user": MARK,
}
HEADERS = {"x-modelfleet-session": MARK, "x-modelfleet-task": MARK, "x-request-id": MARK}


@pytest.mark.parametrize(
    "act", [Act.ANSWER, Act.BUSY, Act.BROKEN, Act.REFUSE, Act.UNKNOWN, Act.NONSENSE, Act.STREAM_ERROR]
)
async def test_no_log_metric_or_explanation_holds_a_prompt(
    act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "modelfleet_sidecar")
    spec = Spec("big")
    async with (
        scripted_server(lambda: act, says=f"can not answer {MARK}") as served,
        running_sidecar(spec, policy=policy_of(fallback=TRIED_ONCE)) as rig,
        aiohttp.ClientSession(rig.http) as client,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        rig.lease.grant({served.url: SlotGrant(spec.key, 4)})
        for fields in ({}, {"stream": True}, {"model": MARK}, {"temperature": {MARK: 1}, "n": MARK}):
            async with client.post(CHAT, json=ASKED | fields, headers=HEADERS) as response:
                await response.read()
        stub = router_pb2_grpc.RouterStub(channel)
        message = router_pb2.Message(role="user", content=MARK)
        try:
            await stub.Complete(router_pb2.ChatRequest(model="auto", messages=[message], headers=HEADERS))
        except grpc.aio.AioRpcError:
            assert act is not Act.ANSWER
        await rig.settled()
        rig.sidecar.router._attempts.look()
        async with client.get(f"{rig.admin}/metrics") as response:
            seen = [await response.text()]
        decisions = list(rig.sidecar.router._books._decisions._settled)
        assert decisions
        for decision in decisions:
            async with client.get(f"/v1/decisions/{decision}") as response:
                seen.append(await response.text())
                assert json.loads(seen[-1])["id"] == decision
            seen.append(str(await stub.Explain(router_pb2.ExplainRequest(decision_id=decision))))
    assert caplog.records
    assert [text for text in (*seen, caplog.text) if MARK in text] == []
