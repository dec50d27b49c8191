"""The streams between sidecars and operator: ordered, delayed, and now and then broken.

In: reports and grants. Out: the same at the other end, later; or both ends learn that the stream broke. As on
TCP nothing inside a stream is lost, repeated or overtaken; what is under way when it breaks may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from modelfleet_core.leasing.messages import Grant, Report, SidecarId

from modelfleet_lab.simulate.events import Timeline


class LeaderEnd(Protocol):
    def hear(self, link: Link, report: Report) -> None: ...
    def closed(self, link: Link) -> None: ...


class SidecarEnd(Protocol):
    def greeted(self, link: Link, epoch: int) -> None: ...
    def take(self, link: Link, grant: Grant) -> None: ...
    def closed(self, link: Link) -> None: ...


@dataclass(slots=True)
class Traffic:
    """Messages delivered, and streams that broke."""

    reports: int = 0
    grants: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    timeline: Timeline
    random: Random
    latency: float
    jitter: float
    loss: float
    traffic: Traffic = field(default_factory=Traffic)

    def delay(self) -> float:
        return self.latency + (self.random.expovariate(1 / self.jitter) if self.jitter > 0 else 0.0)


class Link:
    """One stream."""

    def __init__(self, network: Network, sidecar: SidecarEnd, leader: LeaderEnd) -> None:
        self._network = network
        self._sidecar = sidecar
        self._leader = leader
        self._up_at = self._down_at = 0.0
        self.open = True
        self.id: SidecarId | None = None
        """Of the sidecar, once the leader has heard from it."""

    def report(self, report: Report) -> None:
        self._up_at = self._send(self._up_at, lambda: self._heard(report))

    def grant(self, grant: Grant) -> None:
        self._down_at = self._send(self._down_at, lambda: self._taken(grant))

    def greet(self, epoch: int) -> None:
        self._down_at = self._send(self._down_at, lambda: self._sidecar.greeted(self, epoch))

    def _heard(self, report: Report) -> None:
        self._network.traffic.reports += 1
        self._leader.hear(self, report)

    def _taken(self, grant: Grant) -> None:
        self._network.traffic.grants += 1
        self._sidecar.take(self, grant)

    def _send(self, not_before: float, deliver: Callable[[], None]) -> float:
        network = self._network
        if network.loss > 0 and network.random.random() < network.loss:
            self.close(after=network.delay())
            return not_before
        at = max(not_before, network.timeline.now + network.delay())
        network.timeline.at(at, lambda: deliver() if self.open else None)
        return at

    def close(self, after: float = 0.0) -> None:
        """Break the stream; both ends learn of it `after` seconds."""
        if self.open:
            self.open = False
            self._network.traffic.broken += 1
            self._network.timeline.after(after, lambda: self._leader.closed(self))
            self._network.timeline.after(after, lambda: self._sidecar.closed(self))
