"""G18: the capacity service admits only pods with a token of their own, over TLS, and only as themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from modelfleet.v1 import capacity_pb2, capacity_pb2_grpc
from modelfleet_operator.capacity_tls import Certificate
from modelfleet_operator.cluster import Unavailable
from modelfleet_operator.injection.certificates import CertificateError
from modelfleet_operator.streams import STREAMS_OF_POD
from modelfleet_operator.tokens import TokenAdmission
from modelfleet_sidecar.lease import LeaseClient
from modelfleet_sidecar.operator_access import OperatorAccess
from support.access import AUDIENCE, Reviews, access_to, made_token, pem, review, swap_data, write_pair
from support.leases import (
    POD_A,
    CapacityService,
    MemoryLedgers,
    capacity_service,
    leasing,
    total_free,
    until,
)

pytestmark = pytest.mark.integration


class Guarded:
    """A capacity service over TLS, the CA that sidecars know, and each pod's token file."""

    def __init__(
        self, service: CapacityService, authority: trustme.CA, reviews: Reviews, folder: Path
    ) -> None:
        self.service = service
        self.authority = authority
        self.reviews = reviews
        self.folder = folder

    def token(self, text: str) -> Path:
        file = self.folder / "token"
        file.write_text(text)
        return file

    def access(self, token: str) -> OperatorAccess:
        return access_to(self.service, self.authority, self.token(token))

    async def refusal(self, client: LeaseClient) -> str:
        """Return why the client is not connected."""
        await until(client, lambda: bool(client.trouble))
        assert not client.connected
        return client.trouble


@asynccontextmanager
async def guarded(folder: Path, reviews: Reviews, slots: int = 8) -> AsyncIterator[Guarded]:
    authority = trustme.CA()
    admission = TokenAdmission(reviews, AUDIENCE)
    async with capacity_service(
        MemoryLedgers(),
        {POD_A: slots},
        certificate=write_pair(folder / "tls", authority),
        admission=admission,
    ) as service:
        yield Guarded(service, authority, reviews, folder)
    await admission.close()


async def test_a_pod_with_its_own_token_gets_its_lease_over_tls(tmp_path: Path) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        leasing(guard.service, "one", access=guard.access(token)) as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        assert guard.reviews.asked == [token]


async def test_a_sidecar_that_trusts_another_ca_says_so_and_goes_on_trying(tmp_path: Path) -> None:
    token = made_token("one")
    async with guarded(tmp_path, Reviews(one=token)) as guard:
        authority = tmp_path / "ca.crt"
        authority.write_text(pem(trustme.CA()))
        access = OperatorAccess(f"127.0.0.1:{guard.service.port}", str(authority), guard.token(token))
        async with leasing(guard.service, "one", access=access) as one:
            assert "not signed by the CA in MODELFLEET_OPERATOR_CA" in await guard.refusal(one)
            assert not guard.reviews.asked  # the token never left
            authority.write_text(pem(guard.authority))
            await until(one, lambda: one.connected)


async def test_a_report_of_another_pod_or_namespace_is_refused_with_what_to_do(tmp_path: Path) -> None:
    token = made_token("one")
    reviews = Reviews(one=token)
    async with guarded(tmp_path, reviews) as guard:
        access = guard.access(token)
        async with leasing(guard.service, "two", access=access) as two:
            refusal = await guard.refusal(two)
        assert "PERMISSION_DENIED" in refusal
        assert "bound to pod ml/one" in refusal
        reviews.answers[token] = review("one", namespace="elsewhere")
        fresh = made_token("one")
        reviews.answers[fresh] = review("one", namespace="elsewhere")
        async with leasing(guard.service, "one", access=guard.access(fresh)) as one:
            assert "bound to pod elsewhere/one" in await guard.refusal(one)
        assert guard.service.publisher.sidecars() == ()


async def _read_out(
    call: grpc.aio.StreamStreamCall[capacity_pb2.LeaseReport, capacity_pb2.LeaseGrant],
) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_stream_can_not_turn_into_that_of_another_pod(tmp_path: Path) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        guard.access(token).channel() as channel,
    ):
        call = capacity_pb2_grpc.CapacityStub(channel).Lease(metadata=guard.access(token).metadata())
        await call.read()
        for sequence, pod in enumerate(("one", "two"), start=1):
            identity = capacity_pb2.Identity(namespace="ml", pod=pod, uid=f"uid-{pod}", boot="1")
            await call.write(capacity_pb2.LeaseReport(identity=identity, epoch=1, sequence=sequence))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _read_out(call)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert [view.id.pod for view in guard.service.publisher.sidecars()] == ["one"]


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "holds no token"), ("garbage", "does not accept the token"), ("two\nlines", "holds no token")],
)
async def test_a_sidecar_without_a_good_token_says_so_and_gets_in_once_it_has_one(
    tmp_path: Path, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        leasing(guard.service, "one", access=guard.access(text)) as one,
    ):
        assert says in await guard.refusal(one)
        guard.token(token)  # as the kubelet renews it
        await until(one, lambda: one.connected)
    assert token not in caplog.text


async def test_a_sidecar_whose_token_is_not_mounted_says_where(tmp_path: Path) -> None:
    async with guarded(tmp_path, Reviews()) as guard:
        access = access_to(guard.service, guard.authority, tmp_path / "missing")
        async with leasing(guard.service, "one", access=access) as one:
            refusal = await guard.refusal(one)
        assert str(tmp_path / "missing") in refusal
        assert "serviceAccountToken" in refusal


async def test_an_api_server_that_is_away_keeps_no_open_stream_and_no_known_sidecar_out(
    tmp_path: Path,
) -> None:
    one_token, two_token = made_token("one"), made_token("two")
    reviews = Reviews(one=one_token)
    async with guarded(tmp_path, reviews) as guard:
        access = guard.access(one_token)
        async with leasing(guard.service, "one", access=access) as one:
            await until(one, lambda: total_free(one) == 8)
            reviews.answers = {one_token: Unavailable("away"), two_token: Unavailable("away")}
            second = tmp_path / "second"
            second.write_text(two_token)
            async with leasing(
                guard.service, "two", access=access_to(guard.service, guard.authority, second)
            ) as two:
                assert "UNAVAILABLE: the token can not be reviewed now" in await guard.refusal(two)
                assert one.connected
        async with leasing(guard.service, "one", boot="2", access=access) as again:
            await until(again, lambda: again.connected)


async def test_the_service_without_tls_refuses_nothing_and_with_tls_speaks_no_plain_text(
    tmp_path: Path,
) -> None:
    async with (
        guarded(tmp_path, Reviews()) as guard,
        grpc.aio.insecure_channel(f"127.0.0.1:{guard.service.port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await capacity_pb2_grpc.CapacityStub(channel).Snapshot(capacity_pb2.SnapshotRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    async with capacity_service(MemoryLedgers(), {POD_A: 8}) as plain:
        access = OperatorAccess(f"127.0.0.1:{plain.port}", pem(trustme.CA()), tmp_path / "token")
        (tmp_path / "token").write_text(made_token("one"))
        async with leasing(plain, "one", access=access) as one:
            await until(one, lambda: bool(one.trouble))
            assert "does not speak TLS" in one.trouble


def _spoken(port: int, authority: trustme.CA, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cadata=pem(authority))
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the version that must be refused
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


async def test_only_tls_of_today_is_spoken(tmp_path: Path) -> None:
    async with guarded(tmp_path, Reviews()) as guard:
        given = guard.service.port, guard.authority
        assert await asyncio.to_thread(_spoken, *given, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        assert await asyncio.to_thread(_spoken, *given, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.raises(OSError, match=r"PROTOCOL_VERSION|reset|EOF"):
            await asyncio.to_thread(_spoken, *given, ssl.TLSVersion.TLSv1_1)


async def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    token = made_token("one")
    async with guarded(tmp_path, Reviews(one=token)) as guard:
        write_pair(tmp_path / "tls", guard.authority, "elsewhere.svc")
        async with leasing(guard.service, "one", access=guard.access(token)) as one:
            assert "is not for the host in MODELFLEET_OPERATOR" in await guard.refusal(one)
        assert not guard.reviews.asked


async def test_a_renewed_certificate_is_used_at_once_and_ends_no_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token, other = made_token("one"), made_token("two")
    async with guarded(tmp_path, Reviews(one=token, two=other)) as guard:
        async with leasing(guard.service, "one", access=guard.access(token)) as one:
            await until(one, lambda: total_free(one) == 8)
            renewed = trustme.CA()
            write_pair(tmp_path / "tls", renewed)
            access = access_to(guard.service, renewed, guard.token(other))
            async with leasing(guard.service, "two", access=access) as two:
                await until(two, lambda: total_free(two) == 4)
                assert one.connected
        assert "a new certificate is in use" in caplog.text
        async with leasing(guard.service, "one", boot="2", access=guard.access(token)) as late:
            assert "not signed by the CA" in await guard.refusal(late)


async def test_files_that_do_not_fit_together_leave_the_certificate_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = made_token("one")
    async with guarded(tmp_path, Reviews(one=token)) as guard:
        folder = tmp_path / "tls"
        good = folder / os.readlink(folder / "..data")
        bad = folder / "..bad"
        bad.mkdir()
        (bad / "tls.crt").write_bytes((good / "tls.crt").read_bytes())
        (bad / "tls.key").write_bytes(trustme.CA().private_key_pem.bytes())
        swap_data(folder, bad)
        for boot in ("1", "2"):
            async with leasing(guard.service, "one", boot=boot, access=guard.access(token)) as one:
                await until(one, lambda one=one: one.connected)  # type: ignore[misc]
        told = [record for record in caplog.records if "the certificate in use stays" in record.message]
        assert len(told) == 1
        renewed = trustme.CA()
        write_pair(folder, renewed)
        access = access_to(guard.service, renewed, guard.token(token))
        async with leasing(guard.service, "one", boot="3", access=access) as one:
            await until(one, lambda: one.connected)


@pytest.mark.parametrize(("file", "says"), [("tls.crt", "tls.crt"), ("tls.key", "tls.key")])
def test_a_certificate_that_is_not_there_is_named(tmp_path: Path, file: str, says: str) -> None:
    folder = write_pair(tmp_path / "tls", trustme.CA())
    (folder / file).unlink()
    with pytest.raises(CertificateError, match=f"{says} can not be read: No such file"):
        Certificate(folder)
    (folder / file).write_text("nonsense")
    with pytest.raises(CertificateError, match="no certificate and its key in PEM"):
        Certificate(folder)


async def test_the_snapshot_shows_a_pod_its_own_namespace_only(tmp_path: Path) -> None:
    token, foreign = made_token("one"), made_token("two")
    reviews = Reviews(one=token)
    reviews.answers[foreign] = review("two", namespace="elsewhere")
    async with (
        guarded(tmp_path, reviews) as guard,
        leasing(guard.service, "one", access=guard.access(token)) as one,
    ):
        await until(one, lambda: total_free(one) == 8)
        async with guard.access(token).channel() as channel:
            stub = capacity_pb2_grpc.CapacityStub(channel)

            async def snapshot(text: str) -> capacity_pb2.SnapshotResponse:
                return await stub.Snapshot(
                    capacity_pb2.SnapshotRequest(), metadata=guard.access(text).metadata()
                )

            own = await snapshot(token)
            assert (len(own.sidecars), len(own.endpoints), len(own.ledgers)) == (1, 1, 1)
            other = await snapshot(foreign)
            assert (len(other.sidecars), len(other.endpoints), len(other.ledgers)) == (0, 0, 0)
            assert other.epoch == own.epoch
            for metadata in ((), (("authorization", "Bearer garbage"),)):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Snapshot(capacity_pb2.SnapshotRequest(), metadata=metadata)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_one_pod_can_not_open_streams_without_end(tmp_path: Path) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        guard.access(token).channel() as channel,
    ):
        stub = capacity_pb2_grpc.CapacityStub(channel)
        calls = []
        for boot in range(STREAMS_OF_POD + 1):
            call = stub.Lease(metadata=guard.access(token).metadata())
            await call.read()
            identity = capacity_pb2.Identity(namespace="ml", pod="one", uid="uid-one", boot=str(boot))
            await call.write(capacity_pb2.LeaseReport(identity=identity, epoch=1, sequence=1))
            calls.append(call)
            if boot < STREAMS_OF_POD:
                await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calls[-1].read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls[0].cancel()


async def test_one_pod_can_not_open_streams_without_end_by_telling_nothing(tmp_path: Path) -> None:
    token = made_token("one")
    async with (
        guarded(tmp_path, Reviews(one=token)) as guard,
        guard.access(token).channel() as channel,
    ):
        stub = capacity_pb2_grpc.CapacityStub(channel)
        metadata = guard.access(token).metadata()
        calls = [stub.Lease(metadata=metadata) for _ in range(STREAMS_OF_POD)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Lease(metadata=metadata).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await calls[0].done_writing()
        assert await calls[0].code() is grpc.StatusCode.OK
        greeting = await stub.Lease(metadata=metadata).read()
        assert greeting.epoch == 1  # type: ignore[union-attr]


async def test_streams_that_broke_off_at_any_moment_keep_no_pod_out(tmp_path: Path) -> None:
    token = made_token("one")
    async with guarded(tmp_path, Reviews(one=token)) as guard:
        access = guard.access(token)
        for turns in range(5 * STREAMS_OF_POD):
            async with access.channel() as channel:
                call = capacity_pb2_grpc.CapacityStub(channel).Lease(metadata=access.metadata())
                if turns % 2:
                    await call.read()
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
        async with leasing(guard.service, "one", access=access) as client:
            await until(client, lambda: client.connected)
