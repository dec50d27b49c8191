"""The admission webhook: POST /mutate over HTTPS.

In: AdmissionReviews from API servers. Out: answers from `review`, `followed` and `patch`. A fault of ours
lets the pod through with a warning: it is no reason to keep an application from starting. Connections that
API servers keep open are closed with the next answer once the program ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import traceback
from collections.abc import Callable
from time import perf_counter

from aiohttp import web

from modelfleet_operator.injection.followed import Followed
from modelfleet_operator.injection.patch import (
    Injection,
    MalformedPod,
    Outcome,
    annotations_of,
    inject,
    labels_of,
    wants_sidecar,
)
from modelfleet_operator.injection.review import MAX_BYTES, Review, ReviewError, answer, parse_review
from modelfleet_operator.injection.sidecar import Template
from modelfleet_operator.injection.telemetry import MALFORMED, Telemetry
from modelfleet_operator.settings import Address

_log = logging.getLogger(__name__)

PATH = "/mutate"
HANDSHAKE_SECONDS, REQUEST_SECONDS, IDLE_SECONDS = 5.0, 5.0, 120.0
"""For the TLS handshake; from then to a whole request; between requests."""
MAX_CONNECTIONS = 512
"""An API server keeps a few; more are closed at once."""


class Webhook:
    """Decides reviews; `template` and `followed` give what holds at the moment of a review."""

    def __init__(
        self,
        *,
        template: Callable[[], Template],
        followed: Callable[[], Followed],
        namespace: str,
        telemetry: Telemetry,
    ) -> None:
        """`namespace`: the only one whose pods are looked at; empty: all."""
        self._template = template
        self._followed = followed
        self._namespace = namespace
        self._telemetry = telemetry

    def review(self, body: bytes) -> bytes:
        """Return the answer to one review. Raises `ReviewError`."""
        started = perf_counter()
        try:
            review = parse_review(body)
            injection = self._injection(review)
        except (ReviewError, MalformedPod) as error:
            self._telemetry.admissions.labels(MALFORMED).inc()
            raise ReviewError(str(error)) from error
        self._telemetry.admissions.labels(injection.outcome.value).inc()
        reply = answer(review.uid, injection)
        seconds = perf_counter() - started
        self._telemetry.seconds.observe(seconds)
        # An API server asks again of each pod that was changed after us: that is no news.
        if review.pod is not None and injection.outcome not in (Outcome.UNASKED, Outcome.PRESENT):
            facts = {"namespace": review.namespace, "pod": review.name, "seconds": round(seconds, 6)}
            if injection.warnings:
                facts["warnings"] = injection.warnings
            # Who created the pod may not see the warning: for a Deployment's pods it is a controller.
            refused = injection.outcome is Outcome.REFUSED or injection.warnings
            _log.log(logging.WARNING if refused else logging.INFO, injection.outcome.value, extra=facts)
        return reply

    def _injection(self, review: Review) -> Injection:
        try:
            return self._decided(review)
        except MalformedPod:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod is let through
            # Not its text, which may quote the pod.
            frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            _log.error("fault", extra={"error": type(error).__name__, "at": frames, "pod": review.name})
            warning = "modelfleet sidecar not injected: the injector failed; its log has the fault"
            return Injection(Outcome.FAILED, warnings=(warning,))

    def _decided(self, review: Review) -> Injection:
        pod = review.pod
        if pod is None or not wants_sidecar(pod) or self._namespace not in ("", review.namespace):
            return Injection(Outcome.UNASKED)
        keys, warnings = self._followed().keys(review.namespace, labels_of(pod), annotations_of(pod))
        injection = inject(pod, self._template(), keys)
        if injection.outcome is not Outcome.INJECTED:
            return injection
        return Injection(injection.outcome, injection.operations, injection.warnings + warnings)


class Server:
    """The HTTPS server around a `Webhook`."""

    def __init__(self, webhook: Webhook) -> None:
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_post(PATH, self._mutate)
        self._webhook = webhook
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_SECONDS)
        self._silent: set[asyncio.BaseProtocol] = set()
        self._listening: asyncio.Server | None = None
        self._leaving = False
        self._in_hand = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, listen: Address, context: ssl.SSLContext) -> Address:
        """Listen and return the address, with the port that was given if it was 0."""
        await self._runner.setup()
        self._listening = await asyncio.get_running_loop().create_server(
            self._accept,
            listen.host,
            listen.port,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
        )
        return Address(listen.host, self._listening.sockets[0].getsockname()[1])

    def leave(self) -> None:
        """From now on close each connection with its next answer; new ones are still taken."""
        self._leaving = True

    async def stop(self) -> None:
        """Take no more connections, finish the requests in hand, and close the rest."""
        if self._listening is not None:
            self._listening.close()
        # The runner no longer reads the rest of a body, so it ends only after the requests.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), REQUEST_SECONDS)
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        if server is None or len(server.connections) >= MAX_CONNECTIONS:
            return _Refusal()
        handler = server()
        self._silent.add(handler)
        patience = HANDSHAKE_SECONDS + REQUEST_SECONDS
        asyncio.get_running_loop().call_later(patience, self._end_silent, handler)
        return handler

    def _end_silent(self, handler: web.RequestHandler) -> None:
        if handler in self._silent:
            self._silent.remove(handler)
            handler.force_close()

    async def _mutate(self, request: web.Request) -> web.Response:
        self._silent.discard(request.protocol)
        self._in_hand += 1
        self._idle.clear()
        try:
            response = await self._answer(request)
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self._idle.set()
        if self._leaving:
            response.force_close()
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.Response(status=413, text=f"the body has more than {MAX_BYTES} bytes\n")
        except TimeoutError:
            return web.Response(status=408, text=f"the body took more than {REQUEST_SECONDS:g} s\n")
        try:
            reply = self._webhook.review(body)
        except ReviewError as error:
            _log.warning("malformed review", extra={"error": str(error)})
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(body=reply, content_type="application/json")


class _Refusal(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
