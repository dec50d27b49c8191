"""The watch of a real API server outlives its connection, and says when it can not."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind, NotFound, ObjectEvent, Rejected, Unavailable, kubernetes
from modelfleet_operator.cluster.kubernetes import KubernetesCluster
from modelfleet_operator.cluster.transport import Transport
from modelfleet_operator.handlers import Sink, WatchEnded, Watching
from support.clusters import fleet
from support.control_plane import KubernetesUnderTest, Plane

pytestmark = pytest.mark.integration


class Wire:
    """A relay to the API server that can be cut; it keeps its address."""

    def __init__(self, plane: Plane) -> None:
        server = urlsplit(plane.control_plane.server)
        assert server.hostname
        assert server.port
        self._host, self._port = server.hostname, server.port
        self.port = 0
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._relay, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        relays = tuple(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        copies = [
            asyncio.ensure_future(_copy(reader, far_writer)),
            asyncio.ensure_future(_copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copying in copies:
                copying.cancel()
            for end in (writer, far_writer):
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._relays.discard(relay)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


@pytest_asyncio.fixture
async def wire(plane: Plane) -> AsyncIterator[Wire]:
    made = Wire(plane)
    await made.mend()
    yield made
    await made.cut()


def _kubeconfig(plane: Plane, folder: Path, *, port: int | None = None, token: str | None = None) -> str:
    content = json.loads(plane.control_plane.kubeconfig.read_text())
    if port is not None:
        server = urlsplit(content["clusters"][0]["cluster"]["server"])
        content["clusters"][0]["cluster"]["server"] = f"https://{server.hostname}:{port}"
    if token is not None:
        content["users"][0]["user"]["token"] = token
    file = folder / "kubeconfig"
    file.write_text(json.dumps(content))
    return str(file)


async def test_what_changed_during_an_outage_is_told_after_it(
    plane: Plane, wire: Wire, tmp_path: Path
) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    cluster = await KubernetesCluster.connect(
        namespace=namespace, kubeconfig=_kubeconfig(plane, tmp_path, port=wire.port)
    )
    subject = KubernetesUnderTest(plane, cluster, namespace)
    try:
        await subject.apply(fleet(namespace))
        await subject.watch()
        await wire.cut()
        with pytest.raises(Unavailable):
            await cluster.get(Kind.FLEET, subject.key("chat"))
        await subject.delete("ModelFleet", "chat")
        other = fleet(namespace)
        other["metadata"]["name"] = "other"
        await subject.apply(other)
        await wire.mend()
        log = subject.log
        await log.until(lambda: (Kind.FLEET, "other") in log.objects, "what was created meanwhile")
        await log.until(lambda: (Kind.FLEET, "chat") not in log.objects, "what was deleted meanwhile")
    finally:
        await subject.close()


async def test_credentials_that_are_refused_end_the_watch(plane: Plane, tmp_path: Path) -> None:
    kubeconfig = _kubeconfig(plane, tmp_path, token="wrong")
    cluster = await KubernetesCluster.connect(kubeconfig=kubeconfig)
    with pytest.raises(Rejected, match="Unauthorized"):
        await cluster.run(lambda _: None, asyncio.Event())
    await cluster.close()
    async with Watching(lambda _: None, namespace="", kubeconfig=kubeconfig) as watching:
        with pytest.raises(WatchEnded, match="kopf ended"):
            async with asyncio.timeout(30):
                await watching.ended()


async def test_a_user_without_a_name_can_watch(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    told = asyncio.Event()
    kubeconfig = str(plane.control_plane.kubeconfig)
    async with Watching(lambda _: told.set(), namespace="", kubeconfig=kubeconfig) as watching:
        ended = asyncio.ensure_future(watching.ended())
        heard = asyncio.ensure_future(told.wait())
        async with asyncio.timeout(30):
            await asyncio.wait({ended, heard}, return_when=asyncio.FIRST_COMPLETED)
        assert told.is_set()
        ended.cancel()
        heard.cancel()


async def test_kinds_that_are_not_installed_are_awaited_in_words(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter((NotFound("no such kind"), Unavailable("storage is (re)initializing")))

    class YoungServer(Transport):
        async def request(self, *arguments: Any, **options: Any) -> Mapping[str, object]:
            for error in answers:
                raise error
            return await super().request(*arguments, **options)

    monkeypatch.setattr(kubernetes, "_LOOK_AGAIN_SECONDS", 0.01)
    kubeconfig = str(plane.control_plane.kubeconfig)
    transport = await YoungServer.connect(kubeconfig)
    cluster = KubernetesCluster(transport, namespace="default", kubeconfig=kubeconfig)
    synced = asyncio.Event()
    running = asyncio.create_task(cluster.run(lambda _: None, synced))
    async with asyncio.timeout(30):
        await synced.wait()
    running.cancel()
    await asyncio.wait({running})
    await cluster.close()
    assert "does not know the kind ModelFleet: apply crds/" in caplog.text


async def test_an_object_that_vanished_unseen_is_told_as_deleted_once_two_listings_lack_it(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = ObjectEvent(Kind.FLEET, ObjectKey("default", "ghost"), False, {"kind": "ModelFleet"})
    late = ObjectEvent(Kind.FLEET, ObjectKey("default", "late"), False, {"kind": "ModelFleet"})
    # While it starts; then one that is too early for `late`; from then on all have it.
    listings = iter((set(), set(), {(late.kind, late.key)}))

    async def listed(_: object) -> set[tuple[Kind, ObjectKey]]:
        return next(listings, {(late.kind, late.key)})

    class DeafWatching:
        """A watch that tells of two objects, and misses the end of one."""

        def __init__(self, sink: Sink, **_: object) -> None:
            self._sink = sink

        async def __aenter__(self) -> Self:
            self._sink(ghost)
            self._sink(late)
            return self

        async def ended(self) -> None:
            await asyncio.Event().wait()

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            return None

    monkeypatch.setattr(kubernetes, "Watching", DeafWatching)
    monkeypatch.setattr(kubernetes, "_COMPARE_SECONDS", 0.05)
    monkeypatch.setattr(kubernetes.KubernetesCluster, "_existing", listed)
    cluster = await KubernetesCluster.connect(kubeconfig=str(plane.control_plane.kubeconfig))
    told: asyncio.Queue[ObjectEvent] = asyncio.Queue()
    running = asyncio.create_task(cluster.run(told.put_nowait, asyncio.Event()))
    async with asyncio.timeout(30):
        assert await told.get() == ghost
        assert await told.get() == late
        assert await told.get() == ObjectEvent(ghost.kind, ghost.key, True, ghost.manifest)
    assert told.empty()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await cluster.close()
