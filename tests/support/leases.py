"""A capacity service over loopback with a ledger store in memory, and sidecars that lease from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
from modelfleet.v1 import capacity_pb2_grpc
from modelfleet_core.leasing.ledger import LedgerRecord
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, ObjectKey, PeriodId, VariantKey
from modelfleet_operator.capacity_tls import Certificate
from modelfleet_operator.ledgers import LedgerConflictError, LedgerUnavailableError
from modelfleet_operator.publish import SERVER_OPTIONS, Admission, Publisher
from modelfleet_sidecar.lease import LeaseClient, boot_clock
from modelfleet_sidecar.operator_access import OperatorAccess

from support.manifests import fleet_manifest, policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
SECOND = ObjectKey("ml", "batch")
LARGE = VariantKey(ModelName("large"), "h100")
POD_A = EndpointUrl("http://10.0.0.1:8000")
POD_B = EndpointUrl("http://10.0.0.2:8000")
PATIENCE = 10.0
"""Seconds after which a test gives up waiting; nothing is measured by it."""


def sidecar_id(name: str, boot: str = "1") -> SidecarId:
    return SidecarId("ml", name, f"uid-{name}", boot)


class MemoryLedgers:
    """A compare-and-swap store; writes wait while `open` is not set."""

    def __init__(self) -> None:
        self.records: dict[PeriodId, LedgerRecord] = {}
        self.writes: list[LedgerRecord] = []
        self.readable = True
        self.open = asyncio.Event()
        self.open.set()

    async def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        if not self.readable:
            raise LedgerUnavailableError("the store is closed")
        return self.records.get(period)

    async def write(self, record: LedgerRecord) -> str:
        await self.open.wait()
        stored = self.records.get(record.period)
        if (stored.version if stored is not None else None) != record.version:
            raise LedgerConflictError(f"{record.period} is not version {record.version}")
        version = str(int(record.version or "0") + 1)
        self.records[record.period] = replace(record, version=version)
        self.writes.append(record)
        return version


class CapacityService:
    """One leader's publisher and its server; `run` is its division, which ends when leadership is lost."""

    def __init__(
        self, publisher: Publisher, server: grpc.aio.Server, port: int, run: asyncio.Task[None]
    ) -> None:
        self.publisher = publisher
        self.server = server
        self.port = port
        self.run = run

    async def kill(self) -> None:
        """End as a crashed process does: nothing is written, streams break."""
        self.run.cancel()
        await asyncio.wait([self.run])
        await self.server.stop(None)


def publish_documents(publisher: Publisher, *, budget: str | None = "60", second: bool = False) -> None:
    """Publish the fleet and its policy; with `second` also a policy of the same fleet without budget."""
    manifest = policy_manifest()
    if budget is None:
        del manifest["spec"]["budget"]
    else:
        manifest["spec"]["budget"] = {"limit": budget, "period": "Day", "enforcement": "Hard"}
    policies = {POLICY: (parse_policy(manifest), document(manifest))}
    if second:
        manifest = policy_manifest(SECOND.name)
        del manifest["spec"]["budget"]
        policies[SECOND] = (parse_policy(manifest), document(manifest))
    publisher.set_documents({FLEET: document(fleet_manifest())}, policies)


def publish_slots(publisher: Publisher, slots: Mapping[EndpointUrl, int]) -> None:
    publisher.set_capacity({FLEET: {LARGE: dict(slots)}})


@asynccontextmanager
async def capacity_service(
    store: MemoryLedgers,
    slots: Mapping[EndpointUrl, int],
    *,
    epoch: int = 1,
    may_hold: tuple[str, ...] = (),
    budget: str | None = "60",
    port: int = 0,
    ttl: float = 30.0,
    leads: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = boot_clock,
    wall_clock: Callable[[], datetime] = lambda: datetime(2026, 11, 22, 12, tzinfo=UTC),
    certificate: Path | None = None,
    admission: Admission | None = None,
    refused_experience: Callable[[], None] = lambda: None,
) -> AsyncIterator[CapacityService]:
    publisher = Publisher(
        store=store,
        ttl=ttl,
        leads=leads,
        clock=clock,
        wall_clock=wall_clock,
        admission=admission,
        refused_experience=refused_experience,
    )
    publish_documents(publisher, budget=budget)
    publish_slots(publisher, slots)
    publisher.set_policy_of(lambda sidecar: (POLICY, FLEET))
    await publisher.open_epoch(epoch, may_hold)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    capacity_pb2_grpc.add_CapacityServicer_to_server(publisher, server)
    address = f"127.0.0.1:{port}"
    service = CapacityService(
        publisher,
        server,
        server.add_insecure_port(address)
        if certificate is None
        else server.add_secure_port(address, Certificate(certificate).credentials()),
        asyncio.create_task(publisher.run()),
    )
    await server.start()
    try:
        yield service
    finally:
        await service.kill()


@asynccontextmanager
async def leasing(
    service: CapacityService, name: str, boot: str = "1", *, access: OperatorAccess | None = None
) -> AsyncIterator[LeaseClient]:
    client = LeaseClient(access or f"127.0.0.1:{service.port}", sidecar_id(name, boot))
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def until(client: LeaseClient, condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds after a change of the lease; fails after `PATIENCE` seconds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await client.wait_change(0.05)


def total_free(client: LeaseClient) -> int:
    return sum(client.holding.free(client.now()).values())


def free_money(client: LeaseClient) -> NanoUsd | None:
    return client.holding.money(client.now())
