"""Serves stage status: tells what happened to fleets and policies as Kubernetes Events.

In: `Happening`s of one object, from any stage, at any rate. Out: Events by our own client, the same thing
counted and not repeated. Nothing here fails or holds up a decision: what can not be posted is logged and
counted, and an object that has too much to tell is heard at a bounded rate, the newest of each reason first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import ClusterError, Event, Kind, Rejected
from modelfleet_operator.declarations import Declared
from modelfleet_operator.happenings import Happening, happenings

log = logging.getLogger(__name__)

BURST = 20
"""Events that one object may have at once."""
REFILL = 15.0
"""Seconds after which an object may have one more."""
MOST_WAITING = 16
"""Events of one object that wait at most."""
RETRY = 5.0
"""Seconds between attempts while the API server does not answer."""
_LONGEST_MESSAGE = 1000
_LONGEST_NAME = 230

POSTED, REFUSED, LEFT_OUT = "posted", "refused", "left_out"


class Poster(Protocol):
    """What this module asks of the cluster."""

    async def post(self, event: Event) -> None: ...


@dataclass(frozen=True, slots=True)
class About:
    """A fleet or policy. `uid` tells it from another one of the same name."""

    kind: Kind
    key: ObjectKey
    uid: str


class _Subject:
    """What one object has to tell, and how many Events it may have now."""

    def __init__(self, about: About, now: float) -> None:
        self.about = about
        self.waiting: OrderedDict[str, Event] = OrderedDict()
        self._tokens = float(BURST)
        self._at = now

    def due(self, now: float) -> float:
        """Return the seconds until it may have another Event; 0: now."""
        self._tokens = min(float(BURST), self._tokens + max(0.0, now - self._at) / REFILL)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) * REFILL

    def spend(self) -> None:
        self._tokens -= 1

    def add(self, event: Event) -> Event | None:
        """Keep it for posting; return what is left out for it."""
        found = self.waiting.pop(event.name, None)
        if found is not None:
            event = replace(event, first=found.first, times=found.times + event.times)
        self.waiting[event.name] = event
        if len(self.waiting) <= MOST_WAITING:
            return None
        alike = (name for name, other in self.waiting.items() if other.reason == event.reason)
        oldest = next(name for name in (*alike, *self.waiting) if name != event.name)
        return self.waiting.pop(oldest)


class Recorder:
    """Posts Events as `reporter`. `clock` is monotonic; `counted` hears the outcome of each Event."""

    def __init__(
        self,
        cluster: Poster,
        *,
        reporter: str,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
        counted: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._reporter = reporter
        self._clock = clock
        self._wall_clock = wall_clock
        self._counted = counted
        self._subjects: dict[str, _Subject] = {}
        self._woken = asyncio.Event()

    def tell(self, about: About, news: Iterable[Happening]) -> None:
        """Post these as soon as the object may have more Events. Returns at once and never raises."""
        for happening in news:
            subject = self._subjects.setdefault(about.uid, _Subject(about, self._clock()))
            if subject.add(self._event(about, happening)) is not None:
                self._counted(LEFT_OUT)
            self._woken.set()

    def changed(
        self,
        kind: Kind,
        declared: Declared[Fleet] | Declared[Policy],
        before: Mapping[str, object],
        after: Mapping[str, object],
    ) -> None:
        """Tell what is new in a status that was written."""
        self.tell(About(kind, declared.key, declared.uid), happenings(kind, before, after))

    def forget(self, key: ObjectKey, kind: Kind) -> None:
        """The object is gone: it has nothing more to tell."""
        self._subjects = {
            uid: subject
            for uid, subject in self._subjects.items()
            if (subject.about.key, subject.about.kind) != (key, kind)
        }

    async def run(self) -> NoReturn:
        """Post until cancelled."""
        while True:
            self._woken.clear()
            rest = await self._post_next()
            if rest is None or rest > 0:
                try:
                    async with asyncio.timeout(rest):
                        await self._woken.wait()
                except TimeoutError:
                    continue  # an object may have another Event

    async def _post_next(self) -> float | None:
        """Post one Event; return the seconds until there is another to post, None: not before news come."""
        now = self._clock()
        full = [subject for subject in self._subjects.values() if subject.waiting]
        subject = min(full, key=lambda found: found.due(now), default=None)
        if subject is None:
            return None
        if (rest := subject.due(now)) > 0:
            return rest
        name, event = next(iter(subject.waiting.items()))
        subject.spend()
        del subject.waiting[name]
        try:
            await self._cluster.post(event)
        except Rejected as refused:
            self._counted(REFUSED)
            log.warning("the event %s of %s is refused: %s", event.reason, event.key, refused)
        except ClusterError as error:
            log.warning("events can not be posted, trying again: %s", error)
            if subject.add(event) is not None:
                self._counted(LEFT_OUT)
            await asyncio.sleep(RETRY)
        except Exception:  # telling must never stop what is told of
            self._counted(REFUSED)
            log.exception("the event %s of %s could not be posted", event.reason, event.key)
        else:
            self._counted(POSTED)
        return 0.0

    def _event(self, about: About, happening: Happening) -> Event:
        now = self._wall_clock()
        message = happening.message[:_LONGEST_MESSAGE]
        same = sha256("\0".join((about.uid, happening.reason, message)).encode()).hexdigest()[:16]
        return Event(
            name=f"{about.key.name[:_LONGEST_NAME].rstrip('-.')}.{same}",
            kind=about.kind,
            key=about.key,
            uid=about.uid,
            reason=happening.reason,
            message=message,
            warning=happening.warning,
            reporter=self._reporter,
            first=now,
            last=now,
            times=1,
        )
