"""One run: a leader, sidecars, model servers and their network, in virtual time, until all requests end.

In: a `Scenario`, its `Workload` and who decides. Out: a `Run`. Next: `measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from random import Random

from modelfleet_core.catalog import Fleet
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.values import EndpointUrl, NanoUsd, VariantKey

from modelfleet_lab.simulate.bound import Capacity
from modelfleet_lab.simulate.events import Timeline
from modelfleet_lab.simulate.fates import Fates, Sample
from modelfleet_lab.simulate.fleet import fleet_of, policy_of
from modelfleet_lab.simulate.network import Link, Network, Traffic
from modelfleet_lab.simulate.offers import Offers
from modelfleet_lab.simulate.operator_node import Cpu, LedgerStore, OperatorNode, Setting
from modelfleet_lab.simulate.scenario import Scenario
from modelfleet_lab.simulate.servers import Job, Servers
from modelfleet_lab.simulate.sidecar_node import Decider, Lease, SidecarNode, Surroundings
from modelfleet_lab.simulate.workload import INPUT_TOKENS, WARM_UP, Workload

FAILOVER = 3.0
"""Seconds from a leader's end to the next one."""
LONGEST_NOTICE = 0.5
"""Seconds until a sidecar notices that its leader is gone."""
SAMPLE_EVERY = 1.0
LONGEST_STALL = 20.0

Deciders = Callable[[Lease, Offers], Decider]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What happened. Times are seconds of the run; arrivals begin at `WARM_UP`."""

    fates: Fates
    traffic: Traffic
    cpu: Cpu
    capacity: Capacity
    overloaded: int
    billed: int
    """Nano-USD."""
    budget: int | None
    """Nano-USD of the period; None: no budget."""
    granted: int
    """The ledger's watermark at the end."""
    seconds: float


def money_for(scenario: Scenario, load: Workload) -> NanoUsd | None:
    """Return the budget of the run: a part of what the best model for each request would cost."""
    if scenario.budget <= 0:
        return None
    best = load.quality.argmax(axis=1)
    return NanoUsd(round(1e9 * scenario.budget * float(load.cost[range(len(load)), best].sum())))


class World:
    """Builds all parts and plays them."""

    def __init__(
        self,
        scenario: Scenario,
        load: Workload,
        decide: Deciders,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._scenario = scenario
        self._load = load
        self._progress = progress
        self._random = Random(scenario.seed)
        self._timeline = Timeline()
        self._servers = Servers(self._timeline)
        self._fleet: Fleet = fleet_of(scenario)
        self._budget = money_for(scenario, load)
        policy = policy_of(scenario, self._budget)
        self._offers = Offers(load, self._fleet, policy)
        self._columns = {key: j for j, key in enumerate(self._offers.variants)}
        self._fates = Fates(load, self._columns)
        faults = scenario.faults
        self._network = Network(self._timeline, self._random, scenario.latency, faults.jitter, faults.loss)
        self._cpu = Cpu()
        self._store = LedgerStore()
        self._wanted: dict[VariantKey, int] = {}
        self._made = 0
        self._draining: set[EndpointUrl] = set()
        self._links: list[Link] = []
        length = scenario.duration + scenario.deadline + WARM_UP
        self._setting = Setting(
            fleet=self._fleet,
            policy=policy,
            stock={pool.name: pool.limit for pool in self._fleet.pools},
            # The budget's hour ends with the run, so that pacing spends it within the run.
            wall=datetime(2026, 1, 5, 12, tzinfo=UTC) - timedelta(seconds=min(length, 3599.0)),
            gather=scenario.gather,
            scaling=scenario.scaling,
            scale=self._scale,
            replicas=lambda: dict(self._wanted),
        )
        self._leader: OperatorNode | None = None
        self._epoch = 0
        around = Surroundings(
            timeline=self._timeline,
            random=self._random,
            latency=scenario.latency,
            offers=self._offers,
            decider=lambda lease: decide(lease, self._offers),
            dial=self._dial,
            servers=self._servers,
            job=self._job,
            deadline=lambda request: float(load.deadline[request]),
            fates=self._fates,
        )
        self._sidecars = [SidecarNode(number, around) for number in range(scenario.sidecars)]

    def run(self) -> Run:
        """Play until the last request has ended."""
        scenario, load, timeline = self._scenario, self._load, self._timeline
        counts = scenario.slots_by_model()
        for j, model in enumerate(self._fleet.models):
            left = counts[model.name]
            key = model.variants[0].key
            self._wanted[key] = 0
            while left > 0:
                self._start_replica(j, min(left, model.variants[0].concurrency))
                self._wanted[key] += 1
                left -= model.variants[0].concurrency
        self._elect()
        for node in self._sidecars:
            timeline.after(self._random.random(), node.start)
        rows = zip(load.arrived.tolist(), load.sidecar.tolist(), strict=True)
        for (at, owner), group in groupby(enumerate(rows), key=lambda row: row[1]):
            requests = [i for i, _ in group]
            node = self._sidecars[owner]
            timeline.at(at, partial(node.arrive, requests))
        timeline.at(WARM_UP, self._sample)
        self._schedule_faults()
        end = WARM_UP + scenario.duration + scenario.deadline + LONGEST_STALL + 60.0
        timeline.run(end, going=lambda: self._fates.open > 0)
        records = self._store.records.values()
        return Run(
            fates=self._fates,
            traffic=self._network.traffic,
            cpu=self._cpu,
            capacity=self._servers.lived(end),
            overloaded=self._servers.overloaded,
            billed=self._servers.billed,
            budget=self._budget,
            granted=max((record.accounts[BUDGET].watermark for record in records), default=0),
            seconds=timeline.now,
        )

    # Parts.

    def _dial(self, node: SidecarNode) -> Link | None:
        leader = self._leader
        if leader is None or not leader.alive:
            return None
        link = Link(self._network, node, leader)
        self._links = [known for known in self._links if known.open]
        self._links.append(link)
        link.greet(leader.epoch)
        return link

    def _job(self, request: int, endpoint: EndpointUrl, ended: Callable[[bool, NanoUsd], None]) -> Job:
        j = int(self._fates.model[request])
        return Job(
            endpoint=endpoint,
            request=request,
            seconds=float(self._load.service[request, j]),
            input_tokens=INPUT_TOKENS,
            output_tokens=int(self._load.output_tokens[request]),
            ended=ended,
        )

    def _elect(self) -> None:
        self._epoch += 1
        self._leader = OperatorNode(
            self._timeline,
            self._setting,
            self._store,
            self._cpu,
            epoch=self._epoch,
            may_hold=[node.uid for node in self._sidecars] if self._epoch > 1 else (),
        )
        self._publish()

    def _publish(self) -> None:
        if self._leader is not None:
            self._leader.set_capacity(
                {
                    key: {
                        endpoint: self._servers.slots(endpoint)
                        for endpoint in self._servers.endpoints(j)
                        if endpoint not in self._draining
                    }
                    for key, j in self._columns.items()
                }
            )

    def _start_replica(self, j: int, slots: int) -> None:
        self._made += 1
        model = self._fleet.models[j]
        endpoint = EndpointUrl(f"http://10.{j}.{self._made // 250}.{self._made % 250}:8000")
        self._servers.start(endpoint, j, slots, model.pricing)

    def _replica_ready(self, j: int) -> None:
        key = self._offers.variants[j]
        if len(self._servers.endpoints(j)) < self._wanted[key]:
            self._start_replica(j, self._fleet.models[j].variants[0].concurrency)
            self._publish()

    def _scale(self, replicas: Mapping[VariantKey, int]) -> None:
        """Start and stop replicas; those to stop are taken out of the leases and end once they are idle."""
        for key, count in replicas.items():
            j = self._columns[key]
            for _ in range(count - self._wanted[key]):
                self._timeline.after(self._scenario.startup, partial(self._replica_ready, j))
            endpoints = [e for e in self._servers.endpoints(j) if e not in self._draining]
            for endpoint in endpoints[count:]:
                self._draining.add(endpoint)
                self._stop_when_idle(endpoint)
            self._wanted[key] = count
        self._publish()

    def _stop_when_idle(self, endpoint: EndpointUrl) -> None:
        if not self._servers.has(endpoint):
            return
        if self._servers.busy(endpoint):
            self._timeline.after(SAMPLE_EVERY, lambda: self._stop_when_idle(endpoint))
        else:
            self._servers.stop(endpoint)

    def _sample(self) -> None:
        leader, models = self._leader, range(len(self._fleet.models))
        prices = leader.prices if leader is not None else {}
        self._fates.samples.append(
            Sample(
                at=self._timeline.now,
                live=sum(self._servers.live(j) for j in models),
                held=sum(leader.book.held().values()) if leader is not None else 0,
                in_flight=sum(self._servers.in_flight(j) for j in models),
                waiting=sum(len(node.decider.waiting) for node in self._sidecars if node.up),
                reports=self._network.traffic.reports,
                grants=self._network.traffic.grants,
                cpu=self._cpu.total,
                prices=tuple(prices.get(key, 0.0) for key in self._offers.variants),
            )
        )
        self._progress(self._timeline.now)
        self._timeline.after(SAMPLE_EVERY, self._sample)

    # Faults. Each kind has luck of its own, so that all players meet the same ones.

    def _schedule_faults(self) -> None:
        faults = self._scenario.faults
        for kind, every, happen in (
            ("crash", faults.crash_every, self._crash),
            ("stall", faults.stall_every, self._stall),
            ("failover", faults.failover_every, self._fail_over),
            ("replica", faults.replica_every, self._lose_replica),
        ):
            if every > 0:
                self._again(every, happen, Random(f"{kind} {self._scenario.seed}"))

    def _again(self, every: float, happen: Callable[[Random], None], luck: Random) -> None:
        def now() -> None:
            happen(luck)
            self._again(every, happen, luck)

        self._timeline.after(luck.expovariate(1 / every), now)

    def _crash(self, luck: Random) -> None:
        luck.choice(self._sidecars).crash()

    def _stall(self, luck: Random) -> None:
        luck.choice(self._sidecars).stall(luck.random() * LONGEST_STALL)

    def _fail_over(self, luck: Random) -> None:
        if self._leader is None:
            return
        self._leader.end()
        self._leader = None
        for link in self._links:
            link.close(after=luck.random() * LONGEST_NOTICE)
        self._timeline.after(FAILOVER, self._elect)

    def _lose_replica(self, luck: Random) -> None:
        j = luck.randrange(len(self._fleet.models))
        endpoints = self._servers.endpoints(j)
        if endpoints:
            self._servers.stop(luck.choice(endpoints))
            self._publish()
            self._timeline.after(self._scenario.startup, partial(self._replica_ready, j))
