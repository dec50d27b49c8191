"""Stage publish: the sidecars' lease streams between the divider and the RPCs that serve them.

In come grants to send and why a stream should end; out they go in this order. `publish.py` owns both ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque

import grpc
import grpc.aio
from modelfleet_core.leasing.messages import Grant, SidecarId

from modelfleet_operator.identity import AdmissionError, Caller

log = logging.getLogger(__name__)

STREAMS_OF_POD = 8
"""Open at once, each as another start of its sidecar; and as many that have told nothing yet."""

End = tuple[grpc.StatusCode, str]
"""Why a stream ends; OK: the sidecar closed it."""


class Stream:
    """One sidecar's stream, as the divider sees it."""

    def __init__(self, caller: Caller | None) -> None:
        self.caller = caller
        """The pod of its token; None: not known."""
        self.sidecar: SidecarId | None = None
        self.leaving = False
        """Whether its newest report said so: it may be a former start that another one finishes."""
        self.unlearned = False
        """Whether the log says that nothing can be learned from its reports."""
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
        if error is not None and not isinstance(error, grpc.aio.AbortError):  # which the leader's end causes
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


class Streams:
    """The open streams. Of each sidecar the newest one counts."""

    def __init__(self) -> None:
        self.ready: set[SidecarId] = set()
        """Sidecars whose stream has nothing to send."""
        self._newest: dict[SidecarId, Stream] = {}
        self._starts: dict[str, set[SidecarId]] = {}
        """Their sidecars by the UID of the pod."""
        self._silent: Counter[str] = Counter()
        """Streams that have told nothing, by the UID of their caller."""

    def open(self, caller: Caller | None) -> Stream:
        """Return a new stream. Raises `AdmissionError` where its caller has too many."""
        if caller is not None:
            if self._silent[caller.uid] >= STREAMS_OF_POD:
                raise _too_many(caller.namespace, caller.pod)
            self._silent[caller.uid] += 1
        return Stream(caller)

    def arrive(self, stream: Stream, sidecar: SidecarId) -> None:
        """Its first report has come: end what it replaces. Raises `AdmissionError`."""
        older = self._newest.get(sidecar)
        if older is None and len(self._starts.get(sidecar.uid, ())) >= STREAMS_OF_POD:
            raise _too_many(sidecar.namespace, sidecar.pod)
        self._heard(stream)
        stream.sidecar = sidecar
        if older is not None:
            older.end(grpc.StatusCode.ABORTED, "a newer stream of this sidecar replaced it")
        self._newest[sidecar] = stream
        self._starts.setdefault(sidecar.uid, set()).add(sidecar)
        self.ready.add(sidecar)

    def close(self, stream: Stream) -> bool:
        """Its RPC has ended; returns whether it was its sidecar's newest."""
        if stream.sidecar is None:
            self._heard(stream)
            return False
        if self._newest.get(stream.sidecar) is not stream:
            return False
        del self._newest[stream.sidecar]
        self.ready.discard(stream.sidecar)
        starts = self._starts[stream.sidecar.uid]
        starts.discard(stream.sidecar)
        if not starts:
            del self._starts[stream.sidecar.uid]
        return True

    def newest(self, sidecar: SidecarId) -> Stream | None:
        return self._newest.get(sidecar)

    def stays(self, uid: str) -> bool:
        """Return whether a start of this pod's sidecar has a stream and is not leaving."""
        return any(not self._newest[start].leaving for start in self._starts.get(uid, ()))

    def offer(self, sidecar: SidecarId, grant: Grant) -> None:
        """Send a grant to a sidecar that is ready."""
        self._newest[sidecar].offer(grant)
        self.ready.discard(sidecar)

    def end(self, code: grpc.StatusCode, reason: str) -> None:
        """End all."""
        for stream in self._newest.values():
            stream.end(code, reason)

    def _heard(self, stream: Stream) -> None:
        if stream.caller is not None:
            self._silent -= Counter({stream.caller.uid: 1})  # which drops what is 0


def _too_many(namespace: str, pod: str) -> AdmissionError:
    return AdmissionError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"pod {namespace}/{pod} has {STREAMS_OF_POD} streams already: one sidecar needs one, and one more "
        "while it finishes an earlier start",
        "TooManyStreams",
    )
