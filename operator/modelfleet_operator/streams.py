"""Stage publish: one sidecar's lease stream between the divider and the RPC that serves it.

In come grants to send and why the stream should end; out they go in this order. `publish.py` owns both ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import grpc
from modelfleet_core.leasing.messages import Grant, SidecarId

log = logging.getLogger(__name__)

End = tuple[grpc.StatusCode, str]
"""Why a stream ends; OK: the sidecar closed it."""


class Stream:
    """One sidecar's stream, as the divider sees it."""

    def __init__(self) -> None:
        self.sidecar: SidecarId | None = None
        self.leaving = False
        """Whether its newest report said so: it may be a former start that another one finishes."""
        self._outbox: deque[Grant] = deque()
        self._end: End | None = None
        self._event = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send."""
        return not self._outbox

    def offer(self, grant: Grant) -> None:
        self._outbox.append(grant)
        self._event.set()

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        self._end = self._end or (code, reason)
        self._event.set()

    def heard_out(self, reader: asyncio.Task[None]) -> None:
        """The sidecar sends nothing more: nor does the leader."""
        error = None if reader.cancelled() else reader.exception()
        if error is not None:
            log.error("reports of %s could not be taken", self.sidecar, exc_info=error)
            self.end(grpc.StatusCode.INTERNAL, "the report could not be taken; the operator's log says why")
        self.end(grpc.StatusCode.OK, "")

    async def next(self) -> Grant | End:
        """Return the next grant to send, or why the stream ends."""
        while True:
            if self._outbox:
                return self._outbox.popleft()
            if self._end is not None:
                return self._end
            self._event.clear()
            await self._event.wait()
