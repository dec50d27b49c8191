"""Stage batch, before anything is read: who may call a sidecar that is reached from other pods.

In: the headers of a call. Out: its headers with the caller's name in `x-modelfleet-caller`, which a policy's
`tenants.header` can go by, or a Failure. The name is that of an API key, or `NAMESPACE/NAME` of the
ServiceAccount whose token the API server vouches for. Next: `http_api`, `grpc_api`. On loopback is no gate.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from modelfleet_sidecar.failures import Failure, Fault

log = logging.getLogger(__name__)
_T = TypeVar("_T")

CALLER = "x-modelfleet-caller"
AUTHORIZATION = "authorization"
MAX_SECRET = 16 * 1024
"""Characters; tokens of ServiceAccounts have about 1,500."""
MAX_KEYS = 1_000
READ_AGAIN = 1.0
"""Seconds after which the folder of keys is read anew."""
FRESH = 60.0
"""Seconds for which an accepted token is not reviewed again, so that long goes one that was revoked."""
REFUSED = 5.0
"""Seconds for which a refused one is not."""
STALE = 300.0
"""Seconds for which an accepted one holds beyond that while nobody can review it: applications go on."""
ASK_AGAIN = 15.0
"""Seconds after which it is tried again."""
REMEMBERED = 10_000
"""Accepted ones, and as many refused ones: no flood of wrong tokens makes others forgotten."""
AT_ONCE = 16
"""Reviews under way."""
WAITING = 1_000
"""Tokens that may wait for their review."""
OF_ONE = 64
"""Of these from one address, so that it can not take all places."""
REVIEW_SECONDS = 3.0


class ReviewError(Exception):
    """A token can not be reviewed now; says why and what to do."""


class Reviewer(Protocol):
    """Who vouches for tokens; see `token_reviews`."""

    async def review(self, token: str) -> str | None:
        """Return the ServiceAccount, `NAMESPACE/NAME`, of a token; None: it is none of the audience. Raises
        ReviewError."""
        ...

    async def close(self) -> None: ...


class Keys:
    """API keys, a file for each caller: its name is the caller's, its content the key."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._read_at = clock()
        self._names = self._read()

    def caller_of(self, digest: bytes) -> str | None:
        """Return whose key has this SHA-256; None: nobody's. What is looked up by is a hash, so the time that
        it takes tells nothing of any key."""
        if self._clock() >= self._read_at + READ_AGAIN:
            self._read_at = self._clock()
            self._names = self._read()
        return self._names.get(digest)

    def _read(self) -> dict[bytes, str]:
        names: dict[bytes, str] = {}
        try:
            files = sorted(path for path in self._folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            log.error("no API key is accepted: %s can not be read: %s", self._folder, error.strerror or error)
            return names
        if len(files) > MAX_KEYS:
            log.error("%s holds over %d keys: those of later names are not accepted", self._folder, MAX_KEYS)
        for path in files[:MAX_KEYS]:
            key = _key(path)
            if key:
                names[hashlib.sha256(key).digest()] = path.name
        return names


def _key(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            key = file.read(MAX_SECRET + 1).strip()
    except OSError as error:
        log.error("the API key %s is not accepted: %s", path.name, error.strerror or error)
        return b""
    if not 16 <= len(key) <= MAX_SECRET:
        log.error("the API key %s is not accepted: write one of 16 characters or more", path.name)
        return b""
    return key


class _Accepted(NamedTuple):
    """Whose token it is."""

    name: str
    until: float
    stale_until: float


class Tokens:
    """Tokens of ServiceAccounts. Only their hashes are kept, for a while and so many."""

    def __init__(
        self, reviewer: Reviewer, namespaces: frozenset[str] | None, clock: Callable[[], float]
    ) -> None:
        """`namespaces`: whose ServiceAccounts may call; None: all."""
        self._reviewer = reviewer
        self._namespaces = namespaces
        self._clock = clock
        self._accepted: OrderedDict[bytes, _Accepted] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        """Until when it holds."""
        self._waiting: Counter[str] = Counter()
        """Tokens by the address that they came from."""
        self._under_way: dict[bytes, asyncio.Task[str | None]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def caller_of(self, token: str, digest: bytes, peer: str) -> str | None:
        """Return whose token it is; None: nobody's who may call. Raises ReviewError."""
        now = self._clock()
        accepted = self._accepted.get(digest)
        if accepted is not None and now < accepted.until:
            return accepted.name
        if now < self._refused.get(digest, now):
            return None
        try:
            return await asyncio.shield(self._under_way.get(digest) or self._begin(token, digest, peer))
        except ReviewError as error:
            now = self._clock()
            if accepted is None or now >= accepted.stale_until:
                raise
            if now >= self._accepted.get(digest, accepted).until:  # the first of those who waited
                log.warning("the token of ServiceAccount %s is taken as before: %s", accepted.name, error)
                self._accepted[digest] = accepted._replace(until=now + ASK_AGAIN)
            return accepted.name

    async def close(self) -> None:
        """End the reviews that are under way."""
        reviews = list(self._under_way.values())
        for review in reviews:
            review.cancel()
        if reviews:
            await asyncio.wait(reviews)
        await self._reviewer.close()

    def _begin(self, token: str, digest: bytes, peer: str) -> asyncio.Task[str | None]:
        if len(self._under_way) >= WAITING:
            raise ReviewError(f"{WAITING} tokens wait for their review")
        if self._waiting[peer] >= OF_ONE:
            raise ReviewError(f"{OF_ONE} tokens of {peer or 'this socket'} wait for their review")
        review = asyncio.create_task(self._review(token, digest))
        self._under_way[digest] = review
        self._waiting[peer] += 1
        review.add_done_callback(partial(self._reviewed, digest, peer))
        return review

    def _reviewed(self, digest: bytes, peer: str, review: asyncio.Task[str | None]) -> None:
        del self._under_way[digest]
        self._waiting[peer] -= 1
        if not self._waiting[peer]:
            del self._waiting[peer]
        if not review.cancelled():
            review.exception()  # whoever still waits is told; perhaps nobody does

    async def _review(self, token: str, digest: bytes) -> str | None:
        async with self._places:
            try:
                async with asyncio.timeout(REVIEW_SECONDS):
                    name = await self._reviewer.review(token)
            except TimeoutError:
                raise ReviewError(f"the API server did not answer within {REVIEW_SECONDS:g} s") from None
        if (
            name is not None
            and self._namespaces is not None
            and name.partition("/")[0] not in self._namespaces
        ):
            log.warning(
                "ServiceAccount %s may not call: its namespace is not in MODELFLEET_AUTH_NAMESPACES", name
            )
            name = None
        now = self._clock()
        if name is None:
            self._accepted.pop(digest, None)
            _remember(self._refused, digest, now + REFUSED)
        else:
            _remember(self._accepted, digest, _Accepted(name, now + FRESH, now + FRESH + STALE))
        return name


def _remember(known: OrderedDict[bytes, _T], digest: bytes, what: _T) -> None:
    known[digest] = what
    known.move_to_end(digest)
    while len(known) > REMEMBERED:
        known.popitem(last=False)


class Gate:
    """Lets callers in by their API key or token."""

    def __init__(self, keys: Keys | None, tokens: Tokens | None) -> None:
        self._keys = keys
        self._tokens = tokens

    async def admit(self, headers: Mapping[str, str], peer: str = "") -> dict[str, str]:
        """Return the headers of a call as those behind the gate may see them: with who calls, and without the
        secret. Names are lower-case; `peer` is the address that it came from. Raises Failure."""
        scheme, _, secret = headers.get(AUTHORIZATION, "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret or len(secret) > MAX_SECRET:
            raise _refused("send `authorization: Bearer` with an API key or a token of a ServiceAccount")
        digest = hashlib.sha256(secret.encode("latin-1", "replace")).digest()
        caller = self._keys.caller_of(digest) if self._keys is not None else None
        if caller is None and self._tokens is not None and secret.count(".") == 2:
            try:
                caller = await self._tokens.caller_of(secret, digest, peer)
            except ReviewError as error:
                raise Failure(
                    Fault.UNAVAILABLE,
                    "NotReviewed",
                    f"the token can not be reviewed: {error}",
                    retry_after=2.0,
                ) from error
        if caller is None:
            raise _refused("the API key or token is not accepted here")
        admitted = dict(headers)
        del admitted[AUTHORIZATION]
        admitted[CALLER] = caller
        return admitted

    async def close(self) -> None:
        """End what is under way."""
        if self._tokens is not None:
            await self._tokens.close()


def _refused(problem: str) -> Failure:
    return Failure(Fault.UNAUTHENTICATED, "NotAuthenticated", problem)


def namespaces_of(text: str, own: str) -> frozenset[str] | None:
    """Return whose ServiceAccounts may call by a setting: `*`: all, empty: those of `own`."""
    if text == "*":
        return None
    return frozenset(name.strip() for name in text.split(",") if name.strip()) or frozenset([own])


def in_cluster(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the API server as a pod is told it; None: this is no pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
