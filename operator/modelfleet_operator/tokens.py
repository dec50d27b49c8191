"""Stage publish: tokens of callers, reviewed by the API server, and remembered for a while.

In comes the metadata of a call; out goes the `Caller`, or `AdmissionError`. Next: `publish` serves the call.
A token is kept nowhere, only its hash. After a failover thousands of sidecars come back at once: one review
for each token, so many at a time, whether or not its caller still waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import grpc

from modelfleet_operator.cluster import ClusterError, Rejected, TokenReview
from modelfleet_operator.identity import AdmissionError, Caller, bearer_token, caller_of, expiry

log = logging.getLogger(__name__)

FRESH = 60.0
"""Seconds for which an accepted token is not reviewed again."""
KEPT = 600.0
"""Seconds for which it counts while the API server can not review it."""
REFUSED = 5.0
"""Seconds for which a refused token is not reviewed again."""
AT_ONCE = 32
"""Reviews under way."""
WAITING = 10_000
"""Tokens that may wait for their review."""
REMEMBERED = 20_000
AWAY = 2.0
"""Seconds for which no review is tried after one got no answer, so that callers do not wait in vain."""
REVIEW_SECONDS = 3.0
"""For one review: less than a sidecar waits for its greeting."""

_Digest = bytes
T = TypeVar("T")
_Verdict = Caller | AdmissionError


class Reviewer(Protocol):
    """What this module asks of the cluster."""

    async def review_token(self, token: str, audience: str) -> TokenReview: ...


class _Known:
    __slots__ = ("at", "caller", "ends")

    def __init__(self, caller: Caller, at: float, ends: float) -> None:
        self.caller = caller
        self.at = at
        self.ends = ends


class TokenAdmission:
    """Admits callers whose token is for `audience` and bound to a pod.

    `clock` never goes back; `wall_clock` gives seconds of Unix time, by which tokens end. `count` is called
    with the outcome of every review: accepted, refused or unavailable.
    """

    def __init__(
        self,
        reviewer: Reviewer,
        audience: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._reviewer = reviewer
        self._audience = audience
        self._clock = clock
        self._wall_clock = wall_clock
        self._count = count
        self._accepted: OrderedDict[_Digest, _Known] = OrderedDict()
        self._refused: OrderedDict[_Digest, tuple[float, AdmissionError]] = OrderedDict()
        self._under_way: dict[_Digest, asyncio.Task[_Verdict]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._away = (-math.inf, "")
        """Until when no review is tried, and why."""

    async def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return who calls. Raises `AdmissionError`."""
        token = bearer_token(metadata)
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._remembered(digest)
        if verdict is None:
            review = self._under_way.get(digest)
            if review is None:
                if len(self._under_way) >= WAITING:
                    raise _busy(f"{WAITING} tokens wait for their review")
                review = asyncio.create_task(self._review(token, digest))
                self._under_way[digest] = review
                review.add_done_callback(lambda _: self._under_way.pop(digest, None))
            verdict = await asyncio.shield(review)
        if isinstance(verdict, AdmissionError):
            raise AdmissionError(verdict.code, verdict.message, verdict.reason)
        return verdict

    async def close(self) -> None:
        """End the reviews that are under way."""
        reviews = list(self._under_way.values())
        for review in reviews:
            review.cancel()
        if reviews:
            await asyncio.wait(reviews)

    def _remembered(self, digest: _Digest) -> _Verdict | None:
        if (caller := self._known(digest, FRESH)) is not None:
            return caller
        refused = self._refused.get(digest)
        if refused is not None and self._clock() < refused[0] + REFUSED:
            return refused[1]
        return None

    def _known(self, digest: _Digest, seconds: float) -> Caller | None:
        known = self._accepted.get(digest)
        if known is None or self._clock() >= known.at + seconds or self._wall_clock() >= known.ends:
            return None
        return known.caller

    async def _review(self, token: str, digest: _Digest) -> _Verdict:
        async with self._places:
            until, why = self._away
            if self._clock() < until:
                return self._known(digest, KEPT) or _busy(why)
            try:
                async with asyncio.timeout(REVIEW_SECONDS):
                    review = await self._reviewer.review_token(token, self._audience)
            except (ClusterError, TimeoutError) as error:
                why = self._not_reviewed(error)
                return self._known(digest, KEPT) or _busy(why)
        try:
            caller = caller_of(review, self._audience)
        except AdmissionError as refusal:
            self._count("refused")
            log.warning("a token was refused: %s", refusal.message)
            self._accepted.pop(digest, None)
            # Its traceback holds this frame, and with it the token.
            _remember(self._refused, digest, (self._clock(), refusal.with_traceback(None)))
            return refusal
        self._count("accepted")
        ends = expiry(token)
        _remember(self._accepted, digest, _Known(caller, self._clock(), math.inf if ends is None else ends))
        return caller

    def _not_reviewed(self, error: ClusterError | TimeoutError) -> str:
        """Return why, and try none for a moment."""
        self._count("unavailable")
        why = str(error) or f"no answer within {REVIEW_SECONDS:g} s"
        if isinstance(error, Rejected):
            why = f"{why}; allow the operator's ServiceAccount to create tokenreviews.authentication.k8s.io"
        log.warning("a token can not be reviewed: %s", why)
        self._away = (self._clock() + AWAY, why)
        return why


def _busy(why: str) -> AdmissionError:
    return AdmissionError(
        grpc.StatusCode.UNAVAILABLE,
        f"the token can not be reviewed now: {why}; try again in a moment",
        "NotReviewed",
    )


def _remember(store: OrderedDict[_Digest, T], digest: _Digest, value: T) -> None:
    store[digest] = value
    store.move_to_end(digest)
    while len(store) > REMEMBERED:
        store.popitem(last=False)
