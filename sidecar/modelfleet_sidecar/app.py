"""Composition root of the sidecar: builds every part, passes it by keyword, starts and drains the whole.

In: `Settings` and a lease. Out: three listeners (gRPC Router, OpenAI HTTP, admin) over one router.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from modelfleet.v1 import router_pb2
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.messages import SidecarId

from modelfleet_sidecar.admin import AdminApp
from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.callers import connected
from modelfleet_sidecar.dialing import Dialer, Proxies, UpstreamTls
from modelfleet_sidecar.estimates import LiveEstimator
from modelfleet_sidecar.former import JournalledLease
from modelfleet_sidecar.gate import Gate, Keys, Tokens, in_cluster
from modelfleet_sidecar.grpc_api import GrpcApi
from modelfleet_sidecar.http_api import HttpApi
from modelfleet_sidecar.keys import NO_ENVIRONMENT, ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.lease import Evidence, LeaseClient, boot_clock
from modelfleet_sidecar.lease_stream import Leader
from modelfleet_sidecar.listener_tls import ListenerCertificate, ListenerCertificateError
from modelfleet_sidecar.operator_access import OperatorAccess
from modelfleet_sidecar.plugins import load_plugin
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.settings import Address, Settings, SettingsError, variable
from modelfleet_sidecar.sockets import SocketError, claim, listening, remove, share
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.token_reviews import TokenReviews
from modelfleet_sidecar.web_server import HANDSHAKE, LAST_WORDS, MAX_CONNECTIONS, WebServer

if TYPE_CHECKING:
    from modelfleet_sidecar.standalone.assembly import Standalone

log = logging.getLogger(__name__)

MESSAGE_CEILING = 64 * 1024 * 1024
"""Bytes of a gRPC message that are read at all; the policy's limit, which comes later, is below."""
MAX_STREAMS = 4096
"""gRPC calls of one connection at a time."""
LEASE_PATIENCE = 3.0
"""Seconds for giving the lease back at the end, where an operator listens."""
LAST_REPORT = 0.5
"""The same where something stays unsettled, so that it can not all go back."""
ROUTER_SERVICE = router_pb2.DESCRIPTOR.services_by_name["Router"].full_name


class RunningLease(Lease, Protocol):
    """A lease that is kept up to date."""

    @property
    def connected(self) -> bool: ...
    @property
    def trouble(self) -> str: ...
    async def run(self) -> None: ...
    async def drain(self, timeout: float = ...) -> bool: ...
    def tell_of(self, evidence: Evidence) -> None: ...


class Beside(Protocol):
    """What goes on beside the lease where no operator does it; see `standalone`."""

    async def run(self) -> None: ...
    async def close(self) -> None: ...


def assemble(settings: Settings) -> Sidecar:
    """Return the sidecar of this start, with an operator's lease or, with a config file, its own.

    Raises SettingsError where a file or folder that is set can not be used.
    """
    telemetry = Telemetry()
    leader: Leader | OperatorAccess
    beside: Standalone | None = None
    journal = settings.journal
    if settings.config is not None:
        from modelfleet_sidecar.standalone.assembly import Standalone, StandaloneError  # which reads YAML

        refused = telemetry.document_refused
        try:
            beside = Standalone(settings.config, settings.state, clock=boot_clock, refused=refused)
        except StandaloneError as error:
            raise SettingsError(f"{variable(error.setting)} can not be used: {error}") from error
        leader, journal = beside.leader, beside.journal
    else:
        leader = OperatorAccess(str(settings.operator), settings.operator_ca, settings.operator_token)
    sidecar = SidecarId(settings.namespace, settings.pod_name, settings.pod_uid, secrets.token_hex(8))
    lease = (
        JournalledLease(leader, sidecar, journal)
        if journal is not None
        else LeaseClient(leader, sidecar, clock=boot_clock)
    )
    return Sidecar(settings=settings, lease=lease, telemetry=telemetry, beside=beside)


class Sidecar:
    """One sidecar: `start`, then `drain`. Addresses are known once it has started."""

    def __init__(
        self,
        *,
        settings: Settings,
        lease: RunningLease,
        telemetry: Telemetry | None = None,
        beside: Beside | None = None,
        clock: Callable[[], float] = boot_clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`beside` runs as long as the lease. `draw` returns random numbers, uniform in [0, 1). Raises
        SettingsError where the estimator is not installed."""
        self._settings = settings
        self._lease = lease
        self._tasks: list[asyncio.Task[None]] = []
        self._beside = beside
        self.telemetry = telemetry if telemetry is not None else Telemetry()
        experience = ExperienceLog()
        lease.tell_of(experience)
        self.estimator = LiveEstimator(
            telemetry=self.telemetry,
            experience=experience,
            plugin=load_plugin(settings.estimator, self.telemetry.estimator_failed),
            clock=clock,
        )
        self.router = Router(
            lease=lease,
            estimator=self.estimator,
            learning=Learning(experience=experience, clock=clock, telemetry=self.telemetry),
            keys=ApiKeys(settings.keys, clock, os.environ if settings.config is not None else NO_ENVIRONMENT),
            telemetry=self.telemetry,
            clock=clock,
            settler=lambda: connected(self.grpc_address.port, settings.grpc_socket),
            dialer=_dialer(settings),
            draw=draw,
        )
        self._certificate = _certificate(settings)
        self._gate = gate_of(settings, clock) if self._certificate is not None else None
        self._http = WebServer(
            HttpApi(router=self.router, telemetry=self.telemetry, gate=self._gate),
            tls=self._certificate.context() if self._certificate is not None else None,
        )
        self._admin = WebServer(
            AdminApp(
                registry=self.telemetry.registry,
                ready=lambda: self.router.ready,
                trouble=lambda: self._lease.trouble,
            )
        )
        self._health = health_aio.HealthServicer() if self._gate is None else _Checked()
        self._grpc: grpc.aio.Server | None = None
        self.http_address = settings.http_listen
        self.grpc_address = settings.grpc_listen
        self.admin_address = settings.admin_listen

    async def start(self) -> None:
        """Listen and follow the lease. Raises SettingsError where an address can not be used."""
        with contextlib.ExitStack() as bound:
            http = bound.enter_context(_bind("http_listen", self._settings.http_listen))
            admin = bound.enter_context(_bind("admin_listen", self._settings.admin_listen))
            web = [http]
            if self._settings.http_socket is not None:
                web.append(bound.enter_context(_bind_socket("http_socket", self._settings.http_socket)))
            self._grpc = self._grpc_server()
            bound.pop_all()
        self.http_address, self.admin_address = _address(http), _address(admin)
        await self._grpc.start()
        if self._settings.grpc_socket is not None:
            share(self._settings.grpc_socket)
        self._tasks = [asyncio.create_task(self._lease.run()), asyncio.create_task(self.router.run())]
        if self._beside is not None:
            self._tasks.append(asyncio.create_task(self._beside.run()))
            await self._lease.wait_change(LEASE_PATIENCE)  # which is there at once, so nobody need try again
        self._tasks[2:2] = [
            asyncio.create_task(self._http.serve(web)),
            asyncio.create_task(self._admin.serve([admin])),
        ]
        await asyncio.gather(self._http.listening.wait(), self._admin.listening.wait())
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(ROUTER_SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def failed(self) -> None:
        """Return only by raising: when a part that must run for ever has ended."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("a listener has ended by itself")

    async def drain(self) -> bool:
        """Stop accepting, let what is in flight end within the grace, settle, give the lease back.

        As a native sidecar it is told to stop once the application has ended, or the pod's grace is over.
        Whoever calls all the same is told so: the listeners are closed last, so that nobody is refused a
        connection while others still get their answers. After the grace all is over within 7 s.

        Returns whether everything ended by itself and the operator has acknowledged the return.
        """
        lease, router, http, admin, *beside = self._tasks
        await self._health.enter_graceful_shutdown()
        whole = await self.router.drain(self._settings.drain_grace)
        if not whole:
            log.warning(
                "requests were still in flight after %g s and have failed", self._settings.drain_grace
            )
        self._http.stop()
        assert self._grpc is not None  # noqa: S101 - it has started
        await asyncio.gather(http, self._grpc.stop(LAST_WORDS if whole else 0))
        for path in (self._settings.grpc_socket, self._settings.http_socket):
            if path is not None:
                remove(path)
        await self.router.close()
        if self._gate is not None:
            await self._gate.close()
        patience = LAST_REPORT if self.router.unsettled else LEASE_PATIENCE
        returned = await self._lease.drain(patience if self._lease.connected else 0.0)
        if not returned:
            log.warning("the operator has not acknowledged that the lease is given back; it will expire")
        self._admin.stop()
        await admin
        for task in (lease, router, *beside):
            task.cancel()
        await asyncio.wait((lease, router, *beside))
        if self._beside is not None:
            await self._beside.close()
        return whole and returned

    def _grpc_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", MESSAGE_CEILING),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second sidecar on the port must fail, not share it
                ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE * 1000)),
            )
        )
        GrpcApi(router=self.router, telemetry=self.telemetry, gate=self._gate).add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        if self._gate is None:  # which asks nobody who calls
            names = (ROUTER_SERVICE, health_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        address = str(self._settings.grpc_listen)
        try:
            if self._certificate is not None:
                port = server.add_secure_port(address, self._certificate.credentials())
            else:
                port = server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise _unusable("grpc_listen", self._settings.grpc_listen, "the port is taken or not ours")
        self.grpc_address = Address(self._settings.grpc_listen.host, port)
        if (path := self._settings.grpc_socket) is not None:
            try:
                claim(path)
                server.add_insecure_port(f"unix:{path}")
            except (SocketError, RuntimeError) as error:
                raise _no_socket("grpc_socket", path, str(error)) from None
        return server


class _Checked(health_aio.HealthServicer):  # type: ignore[misc] # it has no types
    """Health that anybody may ask for, but not follow: nobody is asked who it is, and streams stay open."""

    async def Watch(self, request: object, context: grpc.aio.ServicerContext[object, object]) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "a gateway's health is asked for by Check")


def _dialer(settings: Settings) -> Dialer:
    """Return how model servers are reached, by settings and the environment. Raises SettingsError."""
    tls = UpstreamTls(settings.upstream_ca, settings.upstream_tls)
    try:
        if settings.upstream_ca or settings.upstream_tls is not None:
            tls.context()
    except OSError as error:
        names = " or ".join(variable(name) for name in ("upstream_ca", "upstream_tls"))
        raise SettingsError(f"{names} can not be used: {error}") from error
    try:
        return Dialer(tls=tls.context, proxies=Proxies.of(os.environ))
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _certificate(settings: Settings) -> ListenerCertificate | None:
    if settings.tls is None:
        return None
    try:
        return ListenerCertificate(settings.tls)
    except ListenerCertificateError as error:
        raise SettingsError(f"{variable('tls')} can not be used: {error}") from error


def gate_of(settings: Settings, clock: Callable[[], float]) -> Gate:
    """Return who may call, by settings that name keys, an audience or both. Raises SettingsError."""
    tokens = None
    if settings.auth_audience:
        server = in_cluster()
        if server is None:
            raise SettingsError(
                f"{variable('auth_audience')} is set, but KUBERNETES_SERVICE_HOST is not: tokens can be "
                f"reviewed in a pod only; use {variable('auth_keys')} elsewhere"
            )
        reviews = TokenReviews(server, settings.auth_audience, clock=clock)
        tokens = Tokens(reviews, settings.auth_namespaces, clock)
    return Gate(Keys(settings.auth_keys, clock) if settings.auth_keys is not None else None, tokens)


def _bind(name: str, address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=1024)
    except OSError as error:
        raise _unusable(name, address, error.strerror or str(error)) from None


def _bind_socket(name: str, path: Path) -> socket.socket:
    try:
        return listening(path)
    except SocketError as error:
        raise _no_socket(name, path, str(error)) from None


def _address(listener: socket.socket) -> Address:
    host, port, *_ = listener.getsockname()
    return Address(host, port)


def _unusable(name: str, address: Address, problem: str) -> SettingsError:
    return SettingsError(f"{variable(name)}={address} can not be listened on: {problem}; use another port")


def _no_socket(name: str, path: Path, problem: str) -> SettingsError:
    return SettingsError(f"{variable(name)}={path} can not be listened on: {problem}")
