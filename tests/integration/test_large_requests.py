"""Large requests, which are read and written beside the event loop, so that nobody else waits for them."""

from __future__ import annotations

import io
import json
import threading

import aiohttp
import pytest
from modelfleet_sidecar import http_api
from modelfleet_sidecar.calls import LARGE, Call
from modelfleet_sidecar.chat import parse_json
from support.sidecars import Spec, running_sidecar

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(("size", "beside"), [(1000, False), (4 * LARGE, True)])
async def test_a_large_request_is_read_beside_the_event_loop_and_answered(
    size: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[int] = []

    def reading(body: bytes) -> Call:
        readers.append(threading.get_ident())
        return parse_json(body)

    monkeypatch.setitem(http_api.CALLS, CHAT, reading)
    asked = {"model": "auto", "messages": [{"role": "user", "content": "word " * (size // 5)}]}
    async with running_sidecar(Spec("only")) as rig, aiohttp.ClientSession(rig.http) as client:
        body = io.BytesIO(json.dumps(asked).encode())
        answer = await client.post(CHAT, data=body, headers={"content-type": "application/json"})
        assert answer.status == 200
        await rig.settled()
    assert [reader != threading.get_ident() for reader in readers] == [beside]
