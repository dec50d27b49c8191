"""Watches the kinds it is told with kopf, in a thread and event loop of its own; events go to the main loop.

In come watch events of the API server; out go `ObjectEvent`s to a sink in the loop that started the watch.
kopf only watches: no handler keeps state, patches an object or adds a finalizer, so a fleet can be deleted
while no operator runs. In a shared loop kopf would replace signal handlers and cancel the program's tasks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self

import kopf
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import INJECT_LABEL, ClusterError, Kind, ObjectEvent
from modelfleet_operator.cluster.credentials import connection
from modelfleet_operator.cluster.transport import TURNS_SECONDS

_WATCHED = {
    Kind.FLEET: ("modelfleet.io", "v1alpha1", "modelfleets"),
    Kind.POLICY: ("modelfleet.io", "v1alpha1", "routingpolicies"),
    Kind.DEPLOYMENT: ("apps", "v1", "deployments"),
    Kind.ENDPOINT_SLICE: ("discovery.k8s.io", "v1", "endpointslices"),
    Kind.NODE: ("", "v1", "nodes"),
    Kind.POD: ("", "v1", "pods"),
}

Sink = Callable[[ObjectEvent], None]


class WatchEnded(ClusterError):  # noqa: N818 - it is what happened
    """kopf stopped watching by itself: the operator is blind and must end, so that it is started again."""


def register(
    registry: kopf.OperatorRegistry, sink: Sink, *, kinds: Collection[Kind], kubeconfig: str | None = None
) -> None:
    """Make kopf call `sink`, in its own loop, with each event of the watched kinds."""

    async def login(**_: object) -> kopf.ConnectionInfo:
        return await connection(kubeconfig)

    kopf.on.login(registry=registry, id="login")(login)
    for kind in kinds:
        group, version, plural = _WATCHED[kind]
        watch = kopf.on.event(group, version, plural, registry=registry, id=f"watch-{plural}")
        watch(_handler(kind, sink))


def _handler(kind: Kind, sink: Sink) -> Callable[..., Any]:
    async def handle(event: Mapping[str, Any], **_: object) -> None:
        manifest = event["object"]
        metadata = manifest["metadata"]
        key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
        sink(ObjectEvent(kind, key, event["type"] == "DELETED", manifest))

    return handle


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watches that can not stall, no writes of kopf's own, no admission servers."""
    chosen = kopf.OperatorSettings()
    chosen.posting.level = logging.WARNING
    chosen.posting.enabled = False
    chosen.scanning.disabled = True
    chosen.watching.label_selectors[_WATCHED[Kind.POD]] = f"{INJECT_LABEL}=true"
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 330
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    # An API server that was away for a while is followed again within 2 s; one that answers with errors for
    # half a minute ends the watch, and with it the program.
    chosen.networking.error_backoffs = (0.5, 1.0, *[2.0] * 15)
    return chosen


class Watching:
    """A running watch: `async with Watching(sink, namespace="") as watching: await watching.ended()`."""

    def __init__(
        self,
        sink: Sink,
        *,
        namespace: str,
        kinds: Collection[Kind] = tuple(Kind),
        kubeconfig: str | None = None,
    ) -> None:
        self._sink = sink
        self._namespace = namespace
        self._kinds = kinds
        self._kubeconfig = kubeconfig
        self._stop = threading.Event()
        self._ended: asyncio.Future[None]
        self._thread: threading.Thread

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()

        def hand_over(event: ObjectEvent) -> None:
            loop.call_soon_threadsafe(self._sink, event)

        def finish(error: BaseException | None) -> None:
            if not self._ended.done():
                why = str(error) if error is not None else "without an error"
                self._ended.set_exception(
                    WatchEnded(f"kopf ended ({why}); without its watch the operator is blind")
                )

        def work() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._watch(hand_over))
            except BaseException as problem:  # noqa: BLE001 - whatever ended the thread is reported
                error = problem
            loop.call_soon_threadsafe(finish, error)

        self._thread = threading.Thread(target=work, name="kopf", daemon=True)
        self._thread.start()
        return self

    async def _watch(self, sink: Sink) -> None:
        registry = kopf.OperatorRegistry()
        register(registry, sink, kinds=self._kinds, kubeconfig=self._kubeconfig)
        try:
            await kopf.operator(
                registry=registry,
                settings=settings(),
                # kopf would ask for the user's name, and the user of a container has none.
                identity="modelfleet",  # type: ignore[arg-type] # a str, whose own type kopf keeps private
                standalone=True,
                clusterwide=not self._namespace,
                namespaces=[self._namespace] if self._namespace else [],
                stop_flag=self._stop,
            )
        finally:
            # kopf waits for the flag in a helper thread; left unset, it keeps this thread from ever ending.
            self._stop.set()
            await asyncio.sleep(TURNS_SECONDS)

    async def ended(self) -> None:
        """Wait for the watch to end by itself, which raises `WatchEnded`."""
        await asyncio.shield(self._ended)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.cancel()  # from here on the end is wanted
        self._stop.set()
        await asyncio.shield(asyncio.to_thread(self._thread.join))
