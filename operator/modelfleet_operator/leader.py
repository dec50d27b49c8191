"""Serves stages scale and publish: only one operator writes, and older ones are told apart by their epoch.

In: a Lease object and a record of the last epoch. Out: the epoch once the Lease is ours, and the lease terms
that the leader before left there (`lease_terms.py`); later its loss.
Next: `app` starts the writing stages with the epoch and ends the process when leadership is lost.

A leader renews every 2 s, gives up when it could not for 7 s, and is replaced after 10 s, so that the old one
has stopped before a new one starts. Clocks of different machines are not compared: a candidate waits until it
has itself seen the Lease unchanged for its whole duration. The epoch is one more than any epoch before, by
compare-and-swap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Cluster, ClusterError, Conflict, LeaderLease, Record, Unavailable

log = logging.getLogger(__name__)

LEASE_NAME = "modelfleet-operator"
EPOCH_NAME = "modelfleet-epoch"
_EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Seconds."""

    duration: float = 10.0
    renew_within: float = 7.0
    retry: float = 2.0


class Leader:
    """Takes part in the election as `identity`, which must be new for every start of the process.

    `clock` is monotonic, `wall_clock` is UTC; both as functions, so that tests own the time.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        identity: str,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
        rhythm: Rhythm | None = None,
        seen: Callable[[], int] = lambda: 0,
        beat: Callable[[], None] = lambda: None,
        terms: Callable[[], str] = lambda: "",
        standing_by: Callable[[], None] = lambda: None,
    ) -> None:
        """`seen` returns the highest epoch found elsewhere: it outlives the record of epochs.

        `terms` returns what every renewal leaves for a successor; empty: what was found stays.

        `standing_by` is called whenever another is seen to lead.

        `beat` is called at every turn of the loops, also while another leads.
        """
        self._cluster = cluster
        self._key = ObjectKey(namespace, LEASE_NAME)
        self._epoch_key = ObjectKey(namespace, EPOCH_NAME)
        self._identity = identity
        self._clock = clock
        self._wall_clock = wall_clock
        self._rhythm = rhythm or Rhythm()
        self._seen_epoch = seen
        self._beat = beat
        self._terms = terms
        self._standing_by = standing_by
        self.inherited = ""
        """The terms found on the Lease when it was taken; empty: none."""
        self._held: LeaderLease | None = None
        self._renewed_at = 0.0
        self._seen: LeaderLease | None = None
        self._seen_at = 0.0

    def leads(self) -> bool:
        """Return whether writes are safe now: the Lease is ours and was renewed in time."""
        return self._held is not None and self._clock() < self._renewed_at + self._rhythm.renew_within

    async def win(self) -> int:
        """Wait until this process leads and return its epoch."""
        while True:
            self._beat()
            try:
                if await self._try():
                    return await self._open_epoch()
                self._standing_by()
            except Conflict:
                log.debug("another operator wrote the Lease first")
            except ClusterError as error:
                log.warning("the Lease can not be read or written: %s", error)
            await asyncio.sleep(self._rhythm.retry)

    async def hold(self) -> str:
        """Renew until leadership is lost and return why."""
        while True:
            self._beat()
            await asyncio.sleep(self._rhythm.retry)
            try:
                if not await self._renew():
                    return "another operator took the Lease"
            except ClusterError as error:
                log.warning("the Lease can not be renewed: %s", error)
            if not self.leads():
                self._held = None
                return f"the Lease could not be renewed for {self._rhythm.renew_within:g} s"

    async def release(self) -> None:
        """Give the Lease back, so that a successor need not wait for its end."""
        held, self._held = self._held, None
        if held is not None:
            try:
                await self._cluster.write_lease(
                    replace(held, holder="", duration_seconds=1, terms=self._terms() or held.terms)
                )
            except ClusterError as error:
                log.warning("the Lease could not be given back, a successor waits for its end: %s", error)

    async def _try(self) -> bool:
        found = await self._cluster.read_lease(self._key)
        if found is not None and not self._free(found):
            return False
        now = self._wall_clock()
        started = self._clock()
        inherited = found.terms if found is not None else ""
        self._held = await self._cluster.write_lease(
            LeaderLease(
                key=self._key,
                holder=self._identity,
                acquired=now,
                renewed=now,
                duration_seconds=max(1, round(self._rhythm.duration)),
                transitions=found.transitions + 1 if found is not None else 0,
                terms=inherited,
                resource_version=found.resource_version if found is not None else None,
            )
        )
        self._renewed_at = started
        self.inherited = inherited
        return True

    def _free(self, found: LeaderLease) -> bool:
        if not found.holder or found.holder == self._identity:
            return True
        if self._seen is None or found.resource_version != self._seen.resource_version:
            self._seen, self._seen_at = found, self._clock()
        return self._clock() >= self._seen_at + found.duration_seconds

    async def _renew(self) -> bool:
        held = self._held
        if held is None:
            return False
        started = self._clock()
        try:
            self._held = await self._cluster.write_lease(self._renewed(held))
        except Conflict:
            found = await self._cluster.read_lease(self._key)
            if found is None or found.holder != self._identity:
                self._held = None
                return False
            # A write whose answer was lost, or someone's note on the object. Candidates have counted since
            # then, so only a write of now renews.
            self._held = await self._cluster.write_lease(self._renewed(found))
        self._renewed_at = started
        return True

    def _renewed(self, lease: LeaderLease) -> LeaderLease:
        return replace(lease, renewed=self._wall_clock(), terms=self._terms() or lease.terms)

    async def _open_epoch(self) -> int:
        """Return an epoch above every earlier one; the record outlives a deleted Lease."""
        held = self._held
        stored = await self._cluster.read_record(self._epoch_key)
        before = _number(stored.data.get(_EPOCH, "")) if stored is not None else 0
        epoch = max(before, self._seen_epoch(), held.transitions if held is not None else 0) + 1
        await self._cluster.write_record(
            Record(
                key=self._epoch_key,
                data={_EPOCH: str(epoch)},
                labels={"app.kubernetes.io/managed-by": "modelfleet"},
                resource_version=stored.resource_version if stored is not None else None,
            )
        )
        return epoch


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise Unavailable(
            f"ConfigMap {EPOCH_NAME} holds the epoch {text!r}, which is no number: write the highest epoch "
            "of the budget ledgers into it, or delete it if there is none"
        )
    return int(text)
