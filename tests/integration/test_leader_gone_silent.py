"""G12, G13 as a sidecar sees them behind a Service: a leader's node is gone without a word, another leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from modelfleet_operator.tokens import TokenAdmission
from modelfleet_sidecar.lease import LeaseClient
from modelfleet_sidecar.operator_access import OperatorAccess
from support.access import AUDIENCE, Reviews, made_token, pem, write_pair
from support.leases import POD_A, MemoryLedgers, capacity_service, leasing, total_free

pytestmark = pytest.mark.integration
PATIENCE = 60.0


class Service:
    """Leads new connections to `target` as kube-proxy does; those that are there stay where they went.

    A target of None is a pod that is gone: what is sent to it, connections that were open included, is lost
    without an answer.
    """

    def __init__(self) -> None:
        self.target: int | None = None
        self.port = 0
        self.attempts = 0
        self._lost = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def lose(self) -> None:
        """The node of the target is gone."""
        self.target = None
        self._lost.set()
        self._lost = asyncio.Event()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.attempts += 1
        lost = self._lost
        try:
            if self.target is None:
                await asyncio.Event().wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            copies = [
                asyncio.create_task(_copy(reader, far_writer)),
                asyncio.create_task(_copy(far_reader, writer)),
            ]
            gone = asyncio.create_task(lost.wait())
            try:
                await asyncio.wait([*copies, gone], return_when=asyncio.FIRST_COMPLETED)
                for copy in copies:
                    copy.cancel()
                if gone.done():
                    far_writer.transport.abort()
                    await asyncio.Event().wait()  # the near side hears nothing of it
            finally:
                gone.cancel()
                far_writer.transport.abort()
        finally:
            writer.transport.abort()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


async def _until(client: LeaseClient, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await client.wait_change(0.1)


async def test_a_sidecar_leaves_a_silent_leader_and_finds_the_next(tmp_path: Path) -> None:
    authority, token = trustme.CA(), made_token("one")
    folder = write_pair(tmp_path / "tls", authority)
    (tmp_path / "token").write_text(token)
    admissions = [TokenAdmission(Reviews(one=token), AUDIENCE) for _ in range(2)]
    store, service = MemoryLedgers(), Service()
    async with (
        capacity_service(store, {POD_A: 8}, certificate=folder, admission=admissions[0]) as first,
        service.running(),
    ):
        service.target = first.port
        access = OperatorAccess(f"127.0.0.1:{service.port}", pem(authority), tmp_path / "token")
        async with leasing(first, "one", access=access) as one:
            await _until(one, lambda: total_free(one) == 8)
            service.lose()
            assert one.connected
            await _until(one, lambda: not one.connected)  # pings are not answered
            assert total_free(one) == 8  # the lease lives on
            attempts = service.attempts
            await _until(one, lambda: service.attempts >= attempts + 2)  # each attempt ends by itself
            async with capacity_service(
                store,
                {POD_A: 8},
                epoch=2,
                may_hold=("uid-one",),
                certificate=folder,
                admission=admissions[1],
            ) as second:
                service.target = second.port
                await _until(one, lambda: one.holding.epoch == 2 and one.connected)
                await _until(one, lambda: total_free(one) == 8)
    for admission in admissions:
        await admission.close()
