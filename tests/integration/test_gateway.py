"""A sidecar that other pods reach: TLS, API keys and tokens, whose names tenants go by, on both APIs."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import grpc.aio
import modelfleet_client as mf
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_sidecar import app, web_server
from modelfleet_sidecar.app import Sidecar
from modelfleet_sidecar.gate import Gate, ReviewError, Tokens
from modelfleet_sidecar.grpc_api import SERVICE
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.token_reviews import TokenReviews
from support.access import pem, write_pair
from support.control_plane import Plane
from support.sidecars import Rig, Spec, policy_of, running_sidecar, settings_for

pytestmark = pytest.mark.integration

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
KEY, OTHER = "0123456789abcdef-team-a", "0123456789abcdef-team-b"


@asynccontextmanager
async def gateway(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[tuple[Rig, Sidecar]]:
    """Run a second sidecar on a rig's lease, with TLS and the keys of two teams."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "team-a").write_text(KEY + "\n")
    (keys / "team-b").write_text(OTHER)
    settings = replace(
        settings_for(), tls=write_pair(tmp_path / "tls", authority, "127.0.0.1", "localhost"), auth_keys=keys
    )
    policy = replace(policy_of(), tenants=None)
    async with running_sidecar(Spec("small"), policy=policy) as rig:
        sidecar = Sidecar(settings=settings, lease=rig.lease)
        await sidecar.start()
        try:
            yield rig, sidecar
        finally:
            await sidecar.drain()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def ask(
    sidecar: Sidecar, authority: trustme.CA, secret: str, **headers: str
) -> tuple[int, str, dict[str, object]]:
    url = f"https://127.0.0.1:{sidecar.http_address.port}/v1/chat/completions"
    given = headers | ({"authorization": f"Bearer {secret}"} if secret else {})
    connector = aiohttp.TCPConnector(ssl=trusting(authority))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(url, json=BODY, headers=given) as response,
    ):
        reason = response.headers.get("www-authenticate", response.headers.get("x-modelfleet-reason", ""))
        return response.status, reason, await response.json()


async def test_only_who_has_a_key_is_answered_over_http(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with gateway(tmp_path, authority) as (rig, sidecar):
        assert (await ask(sidecar, authority, KEY))[0] == 200
        for secret in ("", KEY[:-1], KEY + "x", "x" * 40_000, "a.b.c", "\xe9" * 20):
            status, challenge, body = await ask(sidecar, authority, secret)
            assert (status, challenge) in ((401, "Bearer"), (431, "")), secret[:30]
            assert KEY not in json.dumps(body)
        assert len(rig.servers["small"].records) == 1


async def test_only_who_has_a_key_is_answered_over_grpc(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with gateway(tmp_path, authority) as (_, sidecar):
        credentials = grpc.ssl_channel_credentials(pem(authority).encode())
        message = router_pb2.Message(role="user", content="hello")
        chat = router_pb2.ChatRequest(model="auto", messages=[message])
        address = f"localhost:{sidecar.grpc_address.port}"
        async with grpc.aio.secure_channel(address, credentials) as channel:
            stub = router_pb2_grpc.RouterStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Complete(chat)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            answer = await stub.Complete(chat, metadata=(("authorization", f"Bearer {KEY}"),))
            assert answer.decision.model == "small"
        async with mf.AsyncClient(address, credentials=credentials) as stranger:
            with pytest.raises(mf.Unauthenticated):
                await stranger.complete("hello")
        bearer = {"authorization": f"Bearer {KEY}"}
        async with mf.AsyncClient(address, credentials=credentials, metadata=bearer) as client:
            assert (await client.complete("hello")).model == "small"
        renewed = iter([f"Bearer {KEY}", "Bearer of-nobody-at-all-now", f"Bearer {OTHER}"])

        def said() -> dict[str, str]:
            return {"authorization": next(renewed)}

        async with mf.AsyncClient(address, credentials=credentials, metadata=said) as client:
            assert (await client.complete("hello")).model == "small"
            with pytest.raises(mf.Unauthenticated):
                await client.complete("hello")
            assert (await client.complete("hello")).model == "small"


async def test_callers_can_not_say_who_they_are(tmp_path: Path) -> None:
    authority = trustme.CA()
    seen: list[str | None] = []
    async with gateway(tmp_path, authority) as (_, sidecar):
        asked = sidecar.router.ask

        def noting(call, headers, **more):  # type: ignore[no-untyped-def]
            seen.append(headers.get("x-modelfleet-caller"))
            assert "authorization" not in headers
            return asked(call, headers, **more)

        sidecar.router.ask = noting  # type: ignore[method-assign]
        forged = {"x-modelfleet-caller": "team-b"}
        assert (await ask(sidecar, authority, KEY, **forged))[0] == 200
        assert (await ask(sidecar, authority, OTHER))[0] == 200
        credentials = grpc.ssl_channel_credentials(pem(authority).encode())
        message = router_pb2.Message(role="user", content="hello")
        chat = router_pb2.ChatRequest(model="auto", messages=[message], headers=forged)
        address = f"localhost:{sidecar.grpc_address.port}"
        async with grpc.aio.secure_channel(address, credentials) as channel:
            metadata = (("authorization", f"Bearer {KEY}"), ("x-modelfleet-caller", "team-b"))
            await router_pb2_grpc.RouterStub(channel).Complete(chat, metadata=metadata)
    assert seen == ["team-a", "team-b", "team-a"]


async def test_keys_and_certificate_are_taken_over_when_they_change(tmp_path: Path) -> None:
    authority, next_authority = trustme.CA(), trustme.CA()
    async with gateway(tmp_path, authority) as (_, sidecar):
        assert (await ask(sidecar, authority, KEY))[0] == 200
        write_pair(tmp_path / "tls", next_authority, "127.0.0.1", "localhost")
        assert (await ask(sidecar, next_authority, KEY))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(sidecar, authority, KEY)
        credentials = grpc.ssl_channel_credentials(pem(next_authority).encode())
        async with grpc.aio.secure_channel(f"localhost:{sidecar.grpc_address.port}", credentials) as channel:
            async with asyncio.timeout(10.0):
                await channel.channel_ready()
        (tmp_path / "keys" / "team-a").write_text("another-key-of-team-a")
        async with asyncio.timeout(10.0):
            while (await ask(sidecar, next_authority, KEY))[0] == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await ask(sidecar, next_authority, "another-key-of-team-a"))[0] == 200


async def test_tokens_of_serviceaccounts_are_reviewed_by_the_api_server(plane: Plane, tmp_path: Path) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)

    def kubectl(*arguments: str) -> str:
        return plane.kubectl(*arguments).strip()

    kubectl("create", "serviceaccount", "gateway", f"--namespace={namespace}")
    own = kubectl("create", "token", "gateway", f"--namespace={namespace}")
    server = kubectl("config", "view", "--raw", "-o=jsonpath={.clusters[0].cluster.server}")
    authority = Path(
        kubectl("config", "view", "--raw", "-o=jsonpath={.clusters[0].cluster.certificate-authority}")
    )
    (tmp_path / "token").write_text(own)
    (tmp_path / "ca.crt").symlink_to(authority)
    caller = kubectl(
        "create", "token", "default", f"--namespace={namespace}", "--audience=modelfleet-gateway"
    )
    elsewhere = kubectl("create", "token", "default", f"--namespace={namespace}")
    reviews = TokenReviews(server, "modelfleet-gateway", clock=boot_clock, account=tmp_path)
    try:
        with pytest.raises(ReviewError, match=r"create tokenreviews\.authentication\.k8s\.io"):
            await reviews.review(caller)
        role, binding = f"reviews-{namespace}", f"--serviceaccount={namespace}:gateway"
        kubectl(
            "create", "clusterrole", role, "--verb=create", "--resource=tokenreviews.authentication.k8s.io"
        )
        kubectl("create", "clusterrolebinding", role, f"--clusterrole={role}", binding)
        assert await reviewed(reviews, caller) == f"{namespace}/default"
        assert await reviews.review(elsewhere) is None
        assert await reviews.review(caller[:-8] + "forged00") is None
        gate = Gate(None, Tokens(reviews, frozenset([namespace]), boot_clock))
        admitted = await gate.admit({"authorization": f"Bearer {caller}", "x-modelfleet-caller": "admin"})
        assert admitted == {"x-modelfleet-caller": f"{namespace}/default"}
    finally:
        await reviews.close()


async def reviewed(reviews: TokenReviews, token: str) -> str | None:
    """Return the first review that the API server lets us have; rights take a moment."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                return await reviews.review(token)
            except ReviewError:
                await asyncio.sleep(0.1)


async def test_who_does_not_agree_on_tls_in_time_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "HANDSHAKE", 0.1)
    authority = trustme.CA()
    async with gateway(tmp_path, authority) as (_, sidecar):
        reader, writer = await asyncio.open_connection(*sidecar.http_address)
        async with asyncio.timeout(10.0):
            assert await reader.read() == b""
        writer.close()
        assert (await ask(sidecar, authority, KEY))[0] == 200


async def test_of_strangers_no_message_is_read_over_grpc(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with gateway(tmp_path, authority) as (_, sidecar):
        credentials = grpc.ssl_channel_credentials(pem(authority).encode())
        async with grpc.aio.secure_channel(f"localhost:{sidecar.grpc_address.port}", credentials) as channel:
            for method in SERVICE.methods:
                # A message that never comes: whoever waits for it before looking who calls waits for ever.
                call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(
                    f"/{SERVICE.full_name}/{method.name}"
                )()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    async with asyncio.timeout(10.0):
                        await call.read()
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, method.name
            none: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(
                f"/{SERVICE.full_name}/Complete"
            )(metadata=(("authorization", f"Bearer {KEY}"),))
            await none.done_writing()
            with pytest.raises(grpc.aio.AioRpcError, match="holds no message"):
                await none.read()


async def test_health_may_be_asked_for_by_anybody_but_not_followed(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with gateway(tmp_path, authority) as (_, sidecar):
        credentials = grpc.ssl_channel_credentials(pem(authority).encode())
        async with grpc.aio.secure_channel(f"localhost:{sidecar.grpc_address.port}", credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health.Watch(health_pb2.HealthCheckRequest()).read()
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_connections_are_bounded_over_grpc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MAX_CONNECTIONS", 2)
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    async with running_sidecar(Spec("small")) as rig, asyncio.timeout(20.0):
        streams = []
        for wanted in (True, True, False):
            reader, writer = await asyncio.open_connection(*rig.sidecar.grpc_address)
            writer.write(hello)
            assert bool(await reader.read(9)) == wanted
            streams.append(writer)
        for writer in streams:
            writer.close()
        async with grpc.aio.insecure_channel(rig.grpc) as channel:
            message = router_pb2.Message(role="user", content="hello")
            chat = router_pb2.ChatRequest(model="auto", messages=[message])
            answer = await router_pb2_grpc.RouterStub(channel).Complete(chat, wait_for_ready=True)
            assert answer.decision.model == "small"
