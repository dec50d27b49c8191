"""External models get their API key over TLS; callers, logs, metrics and explanations never see it (G20)."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from modelfleet_core.catalog import SecretKey
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Fallback
from modelfleet_core.values import EndpointUrl
from support.scripted import Act, Served, scripted_server
from support.sidecars import TRIED_ONCE, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
KEY = "sk-live-0123456789"
REF = SecretKey("frontier", "token")
EXTERNAL = Spec("external", 0.9, api_key=REF)
BODY = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder as the kubelet mounts it."""
    (tmp_path / REF.name).mkdir()
    (tmp_path / REF.name / REF.key).write_text(f"{KEY}\n")
    return tmp_path


@asynccontextmanager
async def before(
    served: Served, folder: Path | None, *others: Spec, fallback: Fallback = TRIED_ONCE
) -> AsyncIterator[Rig]:
    """Run a sidecar that holds a slot of an external model at `served`, and those of `others`."""
    policy = policy_of(fallback=fallback)
    async with running_sidecar(EXTERNAL, *others, policy=policy, keys=folder) as rig:
        slots = {EndpointUrl(rig.servers[one.name].url): SlotGrant(one.key, 2) for one in others}
        rig.lease.grant({EndpointUrl(f"{served.url}#{EXTERNAL.key}"): SlotGrant(EXTERNAL.key, 2), **slots})
        yield rig


async def test_the_key_and_no_header_of_the_caller_goes_to_the_external_model(keys: Path) -> None:
    async with (
        scripted_server(lambda: Act.ANSWER) as served,
        before(served, keys) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        headers = {"authorization": "Bearer of-the-caller", "cookie": "a=b", "x-api-key": "of-the-caller"}
        async with client.post(CHAT, json=BODY, headers=headers) as response:
            assert response.status == 200
        (head,) = served.heads
        assert [line for line in head.split("\r\n") if "authorization" in line] == [
            f"authorization: Bearer {KEY}"
        ]
        assert "of-the-caller" not in head
        assert "cookie" not in head


async def test_without_its_key_a_model_is_never_asked_and_every_place_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        scripted_server(lambda: Act.ANSWER) as served,
        before(served, tmp_path, Spec("own", 0.4)) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        async with client.post(CHAT, json=BODY) as response:
            assert (response.status, response.headers["x-modelfleet-model"]) == (200, "own")
            decision = response.headers["x-modelfleet-decision-id"]
        async with client.get(f"/v1/decisions/{decision}") as response:
            candidates = (await response.json())["candidates"]
        assert {one["model"]: one["excluded_by"] for one in candidates} == {"own": "", "external": "NoApiKey"}
        async with client.post(CHAT, json=BODY | {"model": "external"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "ApiKeyMissing")
        assert served.heads == []
        said = [record for record in caplog.records if "no API key frontier/token" in record.getMessage()]
        assert len(said) == 1
        rig.sidecar.telemetry.keys_missing(rig.sidecar.router.missing_keys())
        async with client.get(f"{rig.admin}/metrics") as response:
            assert "modelfleet_sidecar_keys_missing 1.0" in await response.text()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_server_that_does_not_take_the_key_is_left_for_another_model(
    stream: bool, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the best model wins every request for as long as its key is wrong, and answers none."""
    async with (
        scripted_server(lambda: Act.STRANGER, says=f"bad key {KEY}") as served,
        before(served, keys, Spec("own", 0.4), fallback=Fallback()) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        for attempts in (["2"] * 5) + ["1"]:
            async with client.post(CHAT, json=BODY | {"stream": stream}) as response:
                assert (response.status, response.headers["x-modelfleet-model"]) == (200, "own")
                assert response.headers["x-modelfleet-attempts"] == attempts
        assert len(served.heads) == 5  # then its breaker opens
        async with client.post(CHAT, json=BODY | {"model": "external"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "BreakerOpen")
        said = [record.getMessage() for record in caplog.records if "frontier/token" in record.getMessage()]
        assert len(said) == 1
        assert "answered 401" in said[0]
        assert "external" in said[0]
        for _ in range(2):
            rig.sidecar.router._attempts.look()
        said = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
        assert len(said) == 1
        assert f"model {EXTERNAL.key} failed too often lately, with ApiKeyRefused last" in said[0]
        assert KEY not in caplog.text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "act", [Act.BUSY, Act.BROKEN, Act.REFUSE, Act.STRANGER, Act.STREAM_ERROR, Act.ANSWER]
)
async def test_a_server_that_quotes_the_key_does_not_make_it_known(
    act: Act, stream: bool, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"bad key {KEY}: "
    said += "x" * (500 - len(said) - len(KEY) // 2 - 1) + KEY  # half of it within what is quoted
    async with (
        scripted_server(lambda: act, says=said) as served,
        before(served, keys) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        seen = []
        async with client.post(CHAT, json=BODY | {"stream": stream}) as response:
            seen += [await response.text(), str(response.headers)]
        assert len(served.heads) == 1
        assert KEY in served.heads[0]
        await rig.settled()
        async with client.get(f"{rig.admin}/metrics") as response:
            seen.append(await response.text())
        for decision in list(rig.sidecar.router._books._decisions._settled):
            async with client.get(f"/v1/decisions/{decision}") as response:
                seen.append(await response.text())
        assert len(seen) == 4
        for text in (*seen, caplog.text):
            assert KEY not in text
            assert KEY[: len(KEY) // 2] not in text
        if act is Act.STRANGER:
            assert "frontier/token" in json.loads(seen[0])["error"]["message"]


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """A CA of the system's store."""
    store = tmp_path / "store"
    store.mkdir()
    made = trustme.CA()
    made.cert_pem.write_to_path(str(store / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(store / "ca.pem"))
    return made


def server_side(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize("stream", [True, False])
async def test_an_https_endpoint_is_asked_by_its_name_over_http_1(
    stream: bool, authority: trustme.CA, keys: Path
) -> None:
    context = server_side(authority, "localhost")
    asked: list[tuple[str | None, str | None]] = []

    def hello(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked.append((name, connection.version()))

    context.sni_callback = hello
    async with (
        scripted_server(lambda: Act.ANSWER, tls=context) as served,
        before(served, keys) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        for _ in range(2):
            async with client.post(CHAT, json=BODY | {"stream": stream}) as response:
                assert response.status == 200
                assert "ok" in await response.text()
        assert [name for name, _ in asked] == ["localhost"], "one connection, kept alive"
        assert all(head.startswith("POST /v1/chat/completions HTTP/1.1") for head in served.heads)


@pytest.mark.parametrize("wrong", ["another name", "another CA"])
async def test_a_key_is_never_sent_to_a_server_that_can_not_prove_who_it_is(
    wrong: str, authority: trustme.CA, keys: Path
) -> None:
    context = (
        server_side(authority, "other.example")
        if wrong == "another name"
        else server_side(trustme.CA(), "localhost")
    )
    async with (
        scripted_server(lambda: Act.ANSWER, tls=context) as served,
        before(served, keys) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        async with client.post(CHAT, json=BODY) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "UpstreamUnreachable")
        assert "certificate" in error["message"].lower()
        assert served.heads == []
