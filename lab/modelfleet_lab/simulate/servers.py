"""The simulated model servers, who count what is really in flight and bill what was really produced.

In: requests of sidecars, replicas that come and go. Out: answers after their service time, and the breaches
of limits that the servers saw (G2, G3); nothing here trusts what operator or sidecars count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelfleet_core.catalog import Pricing
from modelfleet_core.values import EndpointUrl, NanoUsd

from modelfleet_lab.simulate.events import Alarm, Timeline


@dataclass(slots=True, eq=False)
class Job:
    """One request at one server. Times are seconds of the run."""

    endpoint: EndpointUrl
    request: int
    seconds: float
    input_tokens: int
    output_tokens: int
    ended: Callable[[bool, NanoUsd], None]
    """Called at the server when it ends: whether the answer is whole, and what it costs."""
    began: float = -1.0
    cancelled: bool = False
    alarm: Alarm | None = None


@dataclass(slots=True)
class _Replica:
    model: int
    concurrency: int
    pricing: Pricing
    jobs: dict[int, Job]


class Servers:
    """All replicas. `overloaded` counts arrivals that found their replica full (G2)."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._replicas: dict[EndpointUrl, _Replica] = {}
        self.overloaded = 0
        self.billed = 0
        """Nano-USD."""
        self.capacity: list[tuple[float, float, int, int]] = []
        """(from, to, model, slots) of replicas that have gone."""
        self._since: dict[EndpointUrl, float] = {}

    def start(self, endpoint: EndpointUrl, model: int, concurrency: int, pricing: Pricing) -> None:
        self._replicas[endpoint] = _Replica(model, concurrency, pricing, {})
        self._since[endpoint] = self._timeline.now

    def stop(self, endpoint: EndpointUrl) -> None:
        """A replica is gone, with all it ran."""
        replica = self._replicas.pop(endpoint)
        self.capacity.append(
            (self._since.pop(endpoint), self._timeline.now, replica.model, replica.concurrency)
        )
        for job in list(replica.jobs.values()):
            self._end(replica, job, whole=False)

    def submit(self, job: Job) -> None:
        """A request arrives; at a replica that is gone it fails at once."""
        replica = self._replicas.get(job.endpoint)
        if replica is None or job.cancelled:
            job.ended(False, NanoUsd(0))
            return
        job.began = self._timeline.now
        replica.jobs[id(job)] = job
        if len(replica.jobs) > replica.concurrency:
            self.overloaded += 1
        job.alarm = self._timeline.after(job.seconds, lambda: self._end(replica, job, whole=True))

    def cancel(self, job: Job) -> None:
        """Its caller went away; what was produced is billed."""
        job.cancelled = True
        replica = self._replicas.get(job.endpoint)
        if replica is not None and id(job) in replica.jobs:
            self._end(replica, job, whole=False)

    def _end(self, replica: _Replica, job: Job, *, whole: bool) -> None:
        del replica.jobs[id(job)]
        if job.alarm is not None:
            job.alarm.cancel()
        part = 1.0 if whole else min(1.0, (self._timeline.now - job.began) / job.seconds)
        bill = replica.pricing.cost(job.input_tokens, round(job.output_tokens * part))
        self.billed += bill
        job.ended(whole, bill)

    def in_flight(self, model: int) -> int:
        return sum(len(replica.jobs) for replica in self._replicas.values() if replica.model == model)

    def live(self, model: int) -> int:
        """Return the slots of a model's replicas."""
        return sum(r.concurrency for r in self._replicas.values() if r.model == model)

    def endpoints(self, model: int) -> list[EndpointUrl]:
        return [endpoint for endpoint, replica in self._replicas.items() if replica.model == model]

    def has(self, endpoint: EndpointUrl) -> bool:
        return endpoint in self._replicas

    def busy(self, endpoint: EndpointUrl) -> bool:
        return bool(self._replicas[endpoint].jobs)

    def slots(self, endpoint: EndpointUrl) -> int:
        return self._replicas[endpoint].concurrency

    def lived(self, until: float) -> list[tuple[float, float, int, int]]:
        """Return (from, to, model, slots) of every replica, those that stand up to `until`."""
        standing = [
            (self._since[endpoint], until, replica.model, replica.concurrency)
            for endpoint, replica in self._replicas.items()
        ]
        return self.capacity + standing
