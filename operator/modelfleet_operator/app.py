"""The composition root: builds every stage, runs them while this process leads, and ends them in order.

In: `Settings` and a stop event. Out: returns on a clean stop, raises when leadership or the watch is lost.
Next: `__main__` turns the end into an exit code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from modelfleet.v1 import capacity_pb2, capacity_pb2_grpc
from modelfleet_core.leasing.terms import NARROWEST
from modelfleet_core.values import ObjectKey

from modelfleet_operator.capacity_endpoint import CapacityEndpoint
from modelfleet_operator.capacity_tls import Certificate
from modelfleet_operator.cluster import Cluster, Kind, ObjectEvent
from modelfleet_operator.cluster.embedded import EmbeddedCluster, read_manifests
from modelfleet_operator.cluster.kubernetes import KubernetesCluster
from modelfleet_operator.estimators import Estimators
from modelfleet_operator.events import Recorder
from modelfleet_operator.fencing import Fence, NotLeadingError
from modelfleet_operator.health import Health
from modelfleet_operator.leader import Leader
from modelfleet_operator.learned_records import LearnedRecords
from modelfleet_operator.learning import Learning
from modelfleet_operator.lease_terms import inherited_terms, terms_text
from modelfleet_operator.ledger_records import RecordLedgers
from modelfleet_operator.ledgers import LeadershipLostError
from modelfleet_operator.observe import Observer
from modelfleet_operator.policies import Policies
from modelfleet_operator.prices import Pricing
from modelfleet_operator.probes import Probes
from modelfleet_operator.publish import SERVER_OPTIONS, Publisher
from modelfleet_operator.publishing import Publishing
from modelfleet_operator.reconcile import Reconciler, Tools
from modelfleet_operator.scale import Scaler
from modelfleet_operator.settings import Address, ClusterKind, Settings
from modelfleet_operator.status import StatusWriter
from modelfleet_operator.telemetry import Telemetry
from modelfleet_operator.tokens import TokenAdmission
from modelfleet_operator.world import World

log = logging.getLogger(__name__)

WATCHED, ELECTED = "the cluster is observed", "it is known who leads"
LEADING, REACHED = "the stages of the leader run", "the capacity Service leads here"
LATE = 60.0
"""Seconds without a turn after which the loops of the Lease and of the leases count as hung."""
WITHDRAWN = 0.5
"""Seconds for the capacity Service to lead here no more."""
LEARNED_END = 1.0
"""Seconds for what was learned to be kept."""
LEDGERS_END = 2.0
"""Seconds for the ledgers to be brought up to date; then all streams are told to end."""
STREAMS_END = 2.0
"""Seconds that open streams have to end on a stop."""
_CAPACITY = capacity_pb2.DESCRIPTOR.services_by_name["Capacity"].full_name


class Operator:
    """One operator process. `cluster` is given by `run_operator`, or by tests."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.listening: asyncio.Future[tuple[Address, Address]] = asyncio.get_running_loop().create_future()
        """Where capacity and probes are served, once they are; tells the ports where 0 was asked for."""
        self._settings = settings
        self._cluster = cluster
        self._clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
        self._synced = asyncio.Event()
        self._observer = Observer(nodes=settings.watch_nodes)
        self._world = World(self._observer)
        self._telemetry = Telemetry()
        self._health = Health(clock=self._clock, awaited=(WATCHED, ELECTED))
        self._probes = Probes(self._telemetry.registry, self._health)
        self._grpc_health = health.aio.HealthServicer()
        self._leader = Leader(
            cluster,
            settings.namespace,
            f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            clock=self._clock,
            wall_clock=lambda: datetime.now(UTC),
            seen=self._observer.highest_epoch,
            beat=partial(self._health.beat, "leader", within=LATE),
            terms=self._terms,
            standing_by=partial(self._health.done, ELECTED),
        )
        self._events = Recorder(
            cluster,
            reporter=socket.gethostname(),
            clock=self._clock,
            wall_clock=lambda: datetime.now(UTC),
            counted=lambda outcome: self._telemetry.told.labels(outcome).inc(),
        )
        self._admission: TokenAdmission | None = None
        if settings.capacity_tls is not None:
            self._admission = TokenAdmission(
                cluster, settings.token_audience, count=self._telemetry.count_review
            )
        self._endpoint: CapacityEndpoint | None = None
        self._ledgers = RecordLedgers(cluster)
        self._learning: Learning | None = None
        self._publisher = Publisher(
            store=self._ledgers,
            leads=self._leader.leads,
            clock=self._clock,
            wall_clock=self._budget_clock,
            beat=partial(self._health.beat, "leases", within=LATE),
            admission=self._admission,
            refused=self._telemetry.count_refused,
            refused_experience=partial(self._telemetry.count_unlearned, "refused"),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; raises `NotLeadingError` when another leads, and what the watch raises."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        try:
            await self._serve(server)
            watch = asyncio.create_task(self._cluster.run(self._take, self._synced), name="watch")
            stages = asyncio.create_task(self._lead(), name="stages")
            stopped = asyncio.create_task(stop.wait(), name="stop")
            try:
                await asyncio.wait({watch, stages, stopped}, return_when=asyncio.FIRST_COMPLETED)
                for task in (watch, stages):
                    if task.done():
                        task.result()
            finally:
                # The stages first: while they end they still need what the watch keeps going.
                await _end(stages)
                await _end(stopped)
                await self._stop_leading()
                await _end(watch)
        finally:
            await server.stop(STREAMS_END)
            if self._admission is not None:
                await self._admission.close()
            await self._probes.stop()
            await self._cluster.close()

    async def _serve(self, server: grpc.aio.Server) -> None:
        try:
            http = await self._probes.start(self._settings.http_listen)
        except OSError as error:
            raise _not_listening("http-listen", self._settings.http_listen) from error
        capacity_pb2_grpc.add_CapacityServicer_to_server(self._publisher, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._grpc_health, server)
        names = (_CAPACITY, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        await self._grpc_health.set(_CAPACITY, health_pb2.HealthCheckResponse.NOT_SERVING)
        listen = self._settings.capacity_listen
        try:
            if self._settings.capacity_tls is None:
                port = server.add_insecure_port(str(listen))
            else:
                certificate = Certificate(
                    self._settings.capacity_tls, expires=self._telemetry.certificate_expiry.set
                )
                port = server.add_secure_port(str(listen), certificate.credentials())
        except RuntimeError as error:
            raise _not_listening("capacity-listen", listen) from error
        await server.start()
        capacity = Address(listen.host, port)
        self.listening.set_result((capacity, http))
        log.info("listening", extra={"capacity": str(capacity), "http": str(http)})

    def _take(self, event: ObjectEvent) -> None:
        self._telemetry.events.labels(event.kind.value).inc()
        self._observer.apply(event)
        if event.deleted:
            self._events.forget(event.key, event.kind)

    async def _lead(self) -> None:
        await self._synced.wait()
        self._health.done(WATCHED)
        log.info("the cluster is observed; waiting for the Lease")
        epoch = await self._leader.win()
        log.info("this process leads", extra={"epoch": epoch})
        self._health.need(LEADING)
        self._health.done(ELECTED)
        self._telemetry.leading.set(1)
        self._telemetry.epoch.set(epoch)
        lost: BaseExceptionGroup[Exception] | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hold())
                await self._start(group, epoch)
                self._lead_here(group, epoch)
        except* (NotLeadingError, LeadershipLostError) as found:
            lost = found
        finally:
            self._telemetry.leading.set(0)
            await self._grpc_health.set(_CAPACITY, health_pb2.HealthCheckResponse.NOT_SERVING)
        if lost is not None:  # raised inside `except*` it would be one of a group
            raise NotLeadingError(_first(lost))

    async def _start(self, group: asyncio.TaskGroup, epoch: int) -> None:
        """Open the epoch and start every stage."""
        publishing = Publishing(self._world, self._publisher)
        publishing.publish(self._world.now())
        pods = self._world.now().snapshot.pods.values()
        inherited = inherited_terms(self._leader.inherited) if epoch > 1 else NARROWEST
        await self._publisher.open_epoch(epoch, {pod.uid for pod in pods if pod.placed}, inherited)
        pricing = Pricing(self._world, self._publisher, self._health, wall_clock=self._budget_clock)
        fleets = Reconciler(
            Tools(
                world=self._world,
                capacity=self._publisher,
                prices=pricing,
                scaler=Scaler(
                    self._cluster,
                    self._observer,
                    Fence(self._cluster, leads=self._leader.leads, epoch=epoch),
                ),
                writer=StatusWriter(
                    self._cluster,
                    Kind.FLEET,
                    clock=self._clock,
                    wall_clock=lambda: datetime.now(UTC),
                    changed=self._events.changed,
                    standing=self._telemetry.figures.stand,
                ),
                events=self._events,
                telemetry=self._telemetry,
                health=self._health,
                epoch=epoch,
                clock=self._clock,
                wall_clock=lambda: datetime.now(UTC),
                rng=random.Random(),  # noqa: S311 - spreads retries
                scaling=asyncio.Lock(),
            )
        )
        estimators = Estimators(self._cluster, world=self._world, health=self._health, clock=self._clock)
        learning = self._learning = Learning(
            world=self._world,
            bases=estimators,
            sink=self._publisher,
            records=LearnedRecords(self._cluster, epoch),
            leads=self._leader.leads,
            health=self._health,
            clock=self._clock,
            wall_clock=time.time,
            failed=self._telemetry.count_unlearned,
        )
        self._publisher.set_learn(learning.hear)
        learning.turn(self._world.now())
        policies = Policies(
            world=self._world,
            accounts=self._publisher,
            learning=learning,
            archive=self._ledgers,
            writer=StatusWriter(
                self._cluster,
                Kind.POLICY,
                clock=self._clock,
                wall_clock=lambda: datetime.now(UTC),
                changed=self._events.changed,
                standing=self._telemetry.figures.stand,
            ),
            figures=self._telemetry.figures,
            health=self._health,
        )
        for stage in (
            publishing.run(),
            self._publisher.run(),
            estimators.run(),
            learning.run(),
            learning.keep(),
            pricing.run(),
            policies.run(),
            fleets.run(),
            self._events.run(),
        ):
            group.create_task(stage)
        await self._grpc_health.set(_CAPACITY, health_pb2.HealthCheckResponse.SERVING)
        self._health.done(LEADING)

    def _lead_here(self, group: asyncio.TaskGroup, epoch: int) -> None:
        """Bring sidecars here, where a Service does."""
        settings = self._settings
        if not settings.capacity_service:
            return
        self._health.need(REACHED)
        self._endpoint = CapacityEndpoint(
            self._cluster,
            ObjectKey(settings.namespace, settings.capacity_service),
            settings.pod_ip,
            self.listening.result()[0].port,
            epoch=epoch,
            leads=self._leader.leads,
            written=self._reached,
        )
        group.create_task(self._endpoint.run())

    def _reached(self, whether: bool) -> None:
        (self._health.done if whether else self._health.need)(REACHED)
        self._telemetry.reached.set(whether)

    def _terms(self) -> str:
        terms = self._publisher.terms()
        return terms_text(terms) if terms is not None else ""

    async def _hold(self) -> None:
        raise NotLeadingError(await self._leader.hold())

    async def _stop_leading(self) -> None:
        """Leave address, ledgers and Lease so that a successor starts at once; nothing rests on it."""
        self._publisher.dismiss()
        if self._endpoint is not None:
            try:
                async with asyncio.timeout(WITHDRAWN):
                    await self._endpoint.withdraw()
            except TimeoutError:
                log.warning("the capacity Service still leads to this process, which ends")
        if self._learning is not None:
            try:
                async with asyncio.timeout(LEARNED_END):
                    await self._learning.close()
            except TimeoutError:
                log.warning("what was learned in the last minute is not kept")
        await self._publisher.stop(within=LEDGERS_END)
        await self._leader.release()

    def _budget_clock(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._settings.clock_offset)


async def run_operator(settings: Settings, stop: asyncio.Event) -> None:
    """Build the cluster that `settings` names and run the operator on it."""
    if settings.cluster is ClusterKind.EMBEDDED:
        if settings.logs is not None:
            settings.logs.mkdir(parents=True, exist_ok=True)
        cluster: Cluster = EmbeddedCluster(read_manifests(settings.manifests), logs=settings.logs)
    else:
        kinds = tuple(kind for kind in Kind if settings.watch_nodes or kind is not Kind.NODE)
        cluster = await KubernetesCluster.connect(namespace=settings.watch_namespace, kinds=kinds)
    await Operator(settings, cluster).run(stop)


def _not_listening(flag: str, address: Address) -> OSError:
    return OSError(
        f"--{flag} {address} can not be listened on: the port is taken or not ours; use another port"
    )


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait; what it raised is told by whoever waited for it first."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("%s ended: %s", task.get_name(), error)


def _first(group: BaseExceptionGroup[Exception]) -> str:
    """Return the message of the first error within nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
