"""Stage publish, the sidecar's side: how reports and grants travel between a lease client and its leader.

In come reports; out come grants. The leader is an operator, over one gRPC stream, or `standalone` in this
process. `lease` says and hears the same to both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import grpc.aio
from modelfleet.v1 import capacity_pb2, capacity_pb2_grpc
from modelfleet_core.leasing.messages import Grant, Report

from modelfleet_sidecar.operator_access import OperatorAccess
from modelfleet_sidecar.wire import grant_from, report_to

_Call = grpc.aio.StreamStreamCall[capacity_pb2.LeaseReport, capacity_pb2.LeaseGrant]


class ProtocolError(Exception):
    """The leader did not speak as agreed; the stream is closed and tried again."""


class Talk(Protocol):
    """One stream between a lease client and its leader; the first grant only announces the epoch."""

    async def hear(self) -> Grant:
        """Return the next grant. Raises what `LeaseClient.run` takes for the end of the stream."""
        ...

    async def say(self, report: Report) -> None: ...


class Leader(Protocol):
    """Who grants leases."""

    @property
    def address(self) -> str:
        """Where it is, for the log."""
        ...

    def talk(self) -> AbstractAsyncContextManager[Talk]:
        """Open a stream."""
        ...


class OperatorStream:
    """The operator's capacity service as a `Leader`."""

    def __init__(self, access: OperatorAccess) -> None:
        self._access = access

    @property
    def address(self) -> str:
        return self._access.address

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """Open a stream; raises AccessError, and grpc's errors once it is used."""
        metadata = self._access.metadata()
        async with self._access.channel() as channel:
            call = capacity_pb2_grpc.CapacityStub(channel).Lease(metadata=metadata)
            try:
                yield _Wire(call)
            finally:
                call.cancel()


class _Wire:
    def __init__(self, call: _Call) -> None:
        self._call = call

    async def hear(self) -> Grant:
        message = await self._call.read()
        if not isinstance(message, capacity_pb2.LeaseGrant):
            raise ProtocolError("the leader closed the stream")
        return grant_from(message)

    async def say(self, report: Report) -> None:
        await self._call.write(report_to(report))
