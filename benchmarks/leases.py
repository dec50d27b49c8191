"""Measures what leases cost the leader: processor seconds per report and its grant.

- `lease_pairs_per_cpu_s_core`: pairs of a report heard and the grant that answers it, for each CPU second of
  the lease book alone, with `--sidecars` sidecars that hold slots of a third of 12 variants, borrow the rest,
  and whose use and wants change with every report;
- `lease_pairs_per_cpu_s_grpc`: the same for a capacity service in a process of its own, over gRPC streams on
  loopback, by that process's CPU time;
- `operator_cores_2000`: CPU seconds per second of that process with 2,000 streams that report as often as it
  asks them to.

    python benchmarks/leases.py --json out/leases.json
    python benchmarks/leases.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import grpc.aio
import uvloop
from modelfleet.v1 import capacity_pb2_grpc
from modelfleet_core.demand import ModelOffer
from modelfleet_core.demand.sketch import NO_DEMAND, Sketch
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Bid, Document, Need, Report, SidecarId, Want
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, ModelName, ObjectKey, TaskName, TierName, VariantKey
from modelfleet_operator.publish import SERVER_OPTIONS, Publisher
from modelfleet_sidecar.wire import grant_from, report_to
from support.leases import MemoryLedgers
from support.manifests import fleet_manifest, policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
VARIANTS = tuple(VariantKey(ModelName(f"model-{number}"), "h100") for number in range(12))
STANDING = 4
"""Variants with so many slots that every sidecar has a share of each; the others are borrowed."""
ENDPOINTS = 4
"""Of each variant."""
SLOTS_EACH = 4
"""Slots of each standing variant for each sidecar."""
BORROWED = 16
"""Slots of each endpoint of the others."""
ARRIVE = 0.01
"""Seconds between two sidecars' arrivals."""
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def capacity(sidecars: int) -> dict[ObjectKey, dict[VariantKey, dict[EndpointUrl, int]]]:
    """Return live slots that give every sidecar a standing share of some variants; others are scarce."""
    each = -(-SLOTS_EACH * sidecars // ENDPOINTS)
    return {
        FLEET: {
            variant: {
                EndpointUrl(f"http://10.{place}.0.{number}:8000"): each if place < STANDING else BORROWED
                for number in range(ENDPOINTS)
            }
            for place, variant in enumerate(VARIANTS)
        }
    }


def budgeted() -> tuple[dict[ObjectKey, Document], dict[ObjectKey, tuple[Policy, Document]]]:
    """Return the documents of a fleet and of a policy with a budget."""
    manifest = policy_manifest()
    manifest["spec"]["budget"] = {"limit": "1000000", "period": "Day", "enforcement": "Hard"}
    return (
        {FLEET: document(fleet_manifest())},
        {POLICY: (parse_policy(manifest), document(manifest))},
    )


class Sidecar:
    """One sidecar whose use, wants and demand change with every report. Its clock is the caller's."""

    def __init__(self, number: int, policy: Policy) -> None:
        self.random = random.Random(number)
        self.holding = Holding(SidecarId("ml", f"assistant-{number}", f"uid-{number}", "1"))
        self.holding.adopt(1)
        self.holding.follow(policy)
        self.sketch = Sketch()
        self.busy: list[int] = []
        self.versions = ("", "")
        self.steps = 0

    def report(self, now: float) -> Report:
        """Start and end some requests, and say what is wanted now."""
        self.steps += 1
        for one in self.busy[: self.random.randint(0, len(self.busy))]:
            self.holding.settle(one, None, now)
            self.busy.remove(one)
        for endpoint, free in self.holding.free(now).items():
            if free and self.random.random() < 0.15:
                taken = self.holding.reserve(now, endpoint, 10**6, now + 1e6, charges={BUDGET: 10**6})
                if hasattr(taken, "id"):
                    self.busy.append(taken.id)
        in_flight: dict[VariantKey, int] = {}
        for endpoint, used in self.holding.in_flight().items():
            variant = self.holding.variant_of(endpoint)
            if variant is not None:
                in_flight[variant] = in_flight.get(variant, 0) + used
        wants = {variant: Want(used) for variant, used in in_flight.items()}
        for variant in self.random.sample(VARIANTS, 2):
            waits = self.random.randint(1, 2)
            wants[variant] = Want(in_flight.get(variant, 0) + waits, (Bid(1.0, self.random.random(), waits),))
        self.holding.want(wants, {BUDGET: Need(2 * 10**6, 10**6, 1.0, 0.5)})
        self.holding.give_back(now)
        for task in ("math", "code"):
            offers = {variant.model: ModelOffer(0.7, 0.001, 1.0) for variant in VARIANTS[:4]}
            self.sketch.record(TierName("gold"), TaskName(task), offers)
        demand = self.sketch.changes() if self.steps > 1 else NO_DEMAND
        report = self.holding.report(
            now, demand=demand, fleet_version=self.versions[0], policy_version=self.versions[1]
        )
        self.sketch.sent(report.sequence)
        return report


def measure_core(sidecars: int, rounds: int) -> dict[str, float]:
    """Play rounds of reports and turns in one process; only the book's time counts."""
    fleets, policies = budgeted()
    book = LeaseBook(epoch=1, ttl=30.0, now=0.0, may_hold=())
    book.set_documents(Documents(fleets, policies))
    book.set_capacity(capacity(sidecars))
    for policy, period in book.unopened(NOW):
        book.open(policy, period, None, 0.0)
    players = [Sidecar(number, policies[POLICY][0]) for number in range(sidecars)]
    by_id = {player.holding.sidecar: player for player in players}
    ready = set(by_id)
    spent, reports, grants, version, now = 0.0, 0, 0, 0, 0.0
    for step in range(rounds + 3):
        if step == 3:  # by then shares and money have settled
            spent, reports, grants = 0.0, 0, 0
        for first in range(0, sidecars, 8):  # as many as arrive between two turns
            said = [player.report(now) for player in players[first : first + 8]]
            began = time.process_time()
            for report in said:
                new = not book.knows(report.sidecar)
                if book.hear(report, now) and new:
                    book.follow(report.sidecar, Follows(POLICY, FLEET))
            made = book.turn(now, ready)
            due = book.due(now)
            spent += time.process_time() - began
            reports += len(said)
            grants += len(made)
            for record in due:
                version += 1
                book.written(record, str(version))
            for sidecar, grant in made:
                by_id[sidecar].holding.apply(grant, now)
                by_id[sidecar].sketch.answered(grant.answers)
        now += 3.1
        book.prune(now)
    return {
        "lease_pairs_per_cpu_s_core": min(reports, grants) / spent,
        "lease_core_us_per_report": 1e6 * spent / reports,
        "lease_core_grants_per_report": grants / reports,
    }


# Over gRPC.


async def serve(sidecars: int) -> None:
    """Be a leader: print the port, then CPU seconds at each line read, until the input ends."""
    publisher = Publisher(store=MemoryLedgers(), wall_clock=lambda: NOW)
    publisher.set_documents(*budgeted())
    publisher.set_capacity(capacity(sidecars))
    publisher.set_policy_of(lambda sidecar: (POLICY, FLEET))
    await publisher.open_epoch(1)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    capacity_pb2_grpc.add_CapacityServicer_to_server(publisher, server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    running = asyncio.create_task(publisher.run())
    await server.start()
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)
    running.cancel()
    await server.stop(None)


class Server:
    """The leader's process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        assert self._process.stdin is not None  # noqa: S101 - they were asked for as pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(b"\n")
        return float(await self._process.stdout.readline())


@asynccontextmanager
async def leader(sidecars: int) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--serve",
        str(sidecars),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
        yield Server(process, int(await process.stdout.readline()))
    finally:
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        await process.wait()


class Client:
    """One sidecar's stream. `paced`: it reports as often as the leader says, else at once after a grant."""

    def __init__(self, sidecar: Sidecar, *, paced: bool) -> None:
        self.sidecar = sidecar
        self.pairs = 0
        self._paced = paced
        self._clock = 0.0
        self._every = 1.0
        self._answered = asyncio.Event()
        self.started = asyncio.Event()

    async def run(self, stub: capacity_pb2_grpc.CapacityAsyncStub, after: float) -> None:
        await asyncio.sleep(after)
        call = stub.Lease()
        await call.read()
        listening = asyncio.create_task(self._listen(call))
        try:
            while True:
                # Its clock runs so fast that every report asks for a renewal, as those of the paced ones do.
                self._clock += 3.1
                self._answered.clear()
                await call.write(report_to(self.sidecar.report(self._clock)))
                if self._paced:
                    await asyncio.sleep(self._every * self.sidecar.random.uniform(0.9, 1.1))
                else:
                    await self._answered.wait()
        finally:
            listening.cancel()
            call.cancel()

    async def _listen(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise RuntimeError(f"the stream ended: {await call.code()}, {await call.details()}")
            grant = grant_from(message)
            self.sidecar.holding.apply(grant, self._clock)
            self.sidecar.sketch.answered(grant.answers)
            if grant.fleet is not None and grant.policy is not None:
                self.sidecar.versions = (grant.fleet.version, grant.policy.version)
            self._every = grant.report_every
            self.pairs += 1
            self._answered.set()
            if self.pairs == 2:
                self.started.set()


async def measure_streams(sidecars: int, seconds: float, *, paced: bool) -> Mapping[str, float]:
    """Return CPU seconds of the leader, pairs, and seconds that passed."""
    policy = budgeted()[1][POLICY][0]
    async with leader(sidecars) as server, contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.port}"))
            for _ in range(max(1, sidecars // 100))
        ]
        clients = [Client(Sidecar(number, policy), paced=paced) for number in range(sidecars)]
        running = [
            asyncio.create_task(
                client.run(capacity_pb2_grpc.CapacityStub(channels[number % len(channels)]), number * ARRIVE)
            )
            for number, client in enumerate(clients)
        ]
        try:
            async with asyncio.timeout(120):
                for client in clients:
                    await client.started.wait()
            await asyncio.sleep(min(seconds, 10.0 if paced else 3.0))
            before, pairs, began = await server.cpu(), sum(c.pairs for c in clients), time.monotonic()
            await asyncio.sleep(seconds)
            cpu = await server.cpu() - before
            return {
                "cpu": cpu,
                "pairs": sum(c.pairs for c in clients) - pairs,
                "seconds": time.monotonic() - began,
                "report_every": clients[0]._every,
            }
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--serve"]:
        uvloop.run(serve(int(arguments[1])))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("out/leases.json"))
    parser.add_argument("--sidecars", type=int, default=200, help="for pairs per CPU second (default 200)")
    parser.add_argument("--rounds", type=int, default=30, help="reports of each sidecar (default 30)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream measurement (default 20)")
    parser.add_argument("--core-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="8 rounds and 4 seconds: under a minute")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 8, 4.0
    figures = measure_core(options.sidecars, options.rounds)
    print(f"core: {figures['lease_pairs_per_cpu_s_core']:,.0f} pairs per CPU second", flush=True)
    figures["lease_core_us_per_report_2000"] = measure_core(2000, 1 if options.quick else 5)[
        "lease_core_us_per_report"
    ]
    if not options.core_only:
        found = uvloop.run(measure_streams(options.sidecars, options.seconds, paced=False))
        figures["lease_pairs_per_cpu_s_grpc"] = found["pairs"] / found["cpu"]
        print(f"gRPC: {figures['lease_pairs_per_cpu_s_grpc']:,.0f} pairs per CPU second", flush=True)
        found = uvloop.run(measure_streams(2000, options.seconds, paced=True))
        figures["operator_cores_2000"] = found["cpu"] / found["seconds"]
        figures["operator_pairs_per_s_2000"] = found["pairs"] / found["seconds"]
        figures["operator_report_every_2000_s"] = found["report_every"]
    for name, value in figures.items():
        print(f"{name:<34}{value:>12,.3f}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
