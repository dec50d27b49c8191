"""A stand-in for scheduler and kubelets where there are none: a real API server's pods as local processes.

In come the API server's nodes and pods; out go bindings within the nodes' GPUs, one process for each pod on
an address of its own (10.244.x.y, which must be local to this machine) and the pods' status. It acts for all
Node objects there are, so use it only on a control plane that has no other kubelets, such as the lab's.
Run as `python -m modelfleet_operator.cluster.node --kubeconfig FILE [--logs FOLDER]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Conflict, NotFound, Rejected, Unavailable
from modelfleet_operator.cluster.fields import integer, items, mapping, text
from modelfleet_operator.cluster.pods import (
    broken_status,
    place,
    running_status,
    timestamp,
    unscheduled_status,
)
from modelfleet_operator.cluster.processes import (
    ContainerError,
    ContainerState,
    container_of,
    run_container,
)
from modelfleet_operator.cluster.transport import MERGE_PATCH, Transport

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 0.5
_DEFAULT_PORT = 8000

Manifest = Mapping[str, object]


@dataclass(slots=True)
class _Run:
    """The process of one pod, by the pod's uid."""

    stop: asyncio.Event
    address: str
    task: asyncio.Task[None]
    started: datetime
    since: datetime
    state: ContainerState = ContainerState.STARTING
    restarts: int = 0
    shown: Manifest = field(default_factory=dict)


class StandInNode:
    """Follows nodes and pods of one API server and makes the pods run."""

    def __init__(self, transport: Transport, *, logs: Path | None) -> None:
        self._transport = transport
        self._logs = logs
        self._nodes: dict[ObjectKey, Manifest] = {}
        self._pods: dict[ObjectKey, Manifest] = {}
        self._runs: dict[str, _Run] = {}
        self._addresses = _addresses()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled, then end every process."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow("/api/v1/nodes", self._nodes))
                tasks.create_task(self._follow("/api/v1/pods", self._pods))
                tasks.create_task(self._work())
        finally:
            for run in self._runs.values():
                run.stop.set()
            await asyncio.gather(*(run.task for run in self._runs.values()), return_exceptions=True)

    async def _follow(self, path: str, objects: dict[ObjectKey, Manifest]) -> None:
        """Keep `objects` as the API server has them."""
        while True:
            try:
                listed = await self._transport.request("GET", path)
                objects.clear()
                objects.update((_key(manifest), manifest) for manifest in items(listed, "items"))
                self._changed.set()
                version = text(mapping(listed, "metadata"), "resourceVersion")
                while True:
                    async for kind, manifest in self._transport.watch(path, version):
                        version = text(mapping(manifest, "metadata"), "resourceVersion")
                        if kind == "DELETED":
                            objects.pop(_key(manifest), None)
                        elif kind != "BOOKMARK":
                            objects[_key(manifest)] = manifest
                        self._changed.set()
            except Conflict:
                _log.info("%s changed too much since it was last seen; listing it again", path)
            except Unavailable as error:
                _log.warning("%s; trying again", error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for node in tuple(self._nodes.values()):
                await self._attempt(self._show_ready(node))
            for pod in tuple(self._pods.values()):
                await self._attempt(self._advance(pod))
            await self._end_forgotten()

    async def _attempt(self, step: Coroutine[None, None, None]) -> None:
        """Take one step; what changed meanwhile comes as an event and is looked at again."""
        try:
            await step
        except (Conflict, NotFound) as error:
            _log.debug("%s", error)
        except Rejected as error:
            _log.error("the API server refuses a step of this node: %s", error)
        except Unavailable as error:
            _log.warning("%s; trying again", error)
            await asyncio.sleep(_RETRY_SECONDS)
            self._changed.set()

    async def _show_ready(self, node: Manifest) -> None:
        conditions = items(mapping(node, "status"), "conditions")
        if any(text(condition, "type") == "Ready" for condition in conditions):
            return
        now = timestamp(datetime.now(UTC))
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "StandIn",
            "message": "pods run as local processes",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        await self._transport.request(
            "PATCH",
            f"/api/v1/nodes/{_key(node).name}/status",
            body={"status": {"conditions": [*conditions, ready]}},
            content_type=MERGE_PATCH,
        )

    async def _advance(self, pod: Manifest) -> None:
        """Take the pod one step further: placed, started, its state shown, stopped, gone."""
        metadata, spec = mapping(pod, "metadata"), mapping(pod, "spec")
        node = text(spec, "nodeName")
        if node and ObjectKey("", node) not in self._nodes:
            return
        run = self._runs.get(text(metadata, "uid"))
        if run is not None and run.task.done():
            run.task.result()  # an error here is ours: let it end the program
            await self._finalise(pod)
            del self._runs[text(metadata, "uid")]
        elif "deletionTimestamp" in metadata:
            if run is None:
                await self._finalise(pod)
            else:
                run.stop.set()
                await self._show(pod, run)
        elif run is not None:
            await self._show(pod, run)
        elif node:
            await self._start(pod)
        else:
            await self._place(pod)

    async def _place(self, pod: Manifest) -> None:
        node = place(pod, list(self._nodes.values()), self._pods.values())
        if node is None:
            status = unscheduled_status(pod, len(self._nodes))
            if items(mapping(pod, "status"), "conditions") != status["conditions"]:
                await self._patch_status(pod, status)
            return
        key = _key(pod)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "target": target,
        }
        await self._transport.request("POST", f"{_path(pod)}/binding", body=binding)
        # The watch tells it later; until then the room is taken already.
        self._pods[key] = {**pod, "spec": {**mapping(pod, "spec"), "nodeName": node}}

    async def _start(self, pod: Manifest) -> None:
        uid, address = text(mapping(pod, "metadata"), "uid"), next(self._addresses)
        ports = [
            integer(port, "containerPort")
            for container in items(mapping(pod, "spec"), "containers")
            for port in items(container, "ports")
        ]
        port = ports[0] if ports else _DEFAULT_PORT
        try:
            container = container_of(pod, address=address, port=port)
        except ContainerError as error:
            status = broken_status(pod, str(error))
            if text(mapping(pod, "status"), "reason") != "CreateContainerConfigError":
                await self._patch_status(pod, {**status, "reason": "CreateContainerConfigError"})
            return
        now, stop = datetime.now(UTC), asyncio.Event()
        log = self._logs / f"{_key(pod).name}.log" if self._logs else None
        task = asyncio.create_task(
            run_container(
                container,
                address=address,
                port=port,
                changed=lambda state: self._note(uid, state),
                stop=stop,
                log=log,
            )
        )
        task.add_done_callback(lambda _: self._changed.set())
        self._runs[uid] = run = _Run(stop=stop, address=address, task=task, started=now, since=now)
        await self._show(pod, run)

    def _note(self, uid: str, state: ContainerState) -> None:
        run = self._runs[uid]
        run.restarts += state is ContainerState.STARTING and run.state is ContainerState.EXITED
        run.state, run.since = state, datetime.now(UTC)
        self._changed.set()

    async def _show(self, pod: Manifest, run: _Run) -> None:
        status = running_status(
            pod, run.state, address=run.address, restarts=run.restarts, started=run.started, since=run.since
        )
        if status != run.shown:
            await self._patch_status(pod, status)
            run.shown = status

    async def _patch_status(self, pod: Manifest, status: Manifest) -> None:
        await self._transport.request(
            "PATCH", f"{_path(pod)}/status", body={"status": status}, content_type=MERGE_PATCH
        )

    async def _finalise(self, pod: Manifest) -> None:
        """Tell the API server that nothing of the pod runs any more, so that it can remove the object."""
        uid = text(mapping(pod, "metadata"), "uid")
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": uid},
        }
        await self._transport.request("DELETE", _path(pod), body=body)

    async def _end_forgotten(self) -> None:
        """Stop the processes of pods whose object was removed by force."""
        known = {text(mapping(pod, "metadata"), "uid") for pod in self._pods.values()}
        for uid, run in tuple(self._runs.items()):
            if uid not in known:
                run.stop.set()
                if run.task.done():
                    del self._runs[uid]


def _addresses() -> Iterator[str]:
    """Return pod addresses, each once; .0 and .255 of each group of 256 are left out."""
    return (f"10.244.{group}.{host}" for group, host in itertools.product(range(1, 256), range(1, 255)))


def _key(manifest: Manifest) -> ObjectKey:
    metadata = mapping(manifest, "metadata")
    return ObjectKey(text(metadata, "namespace"), text(metadata, "name"))


def _path(pod: Manifest) -> str:
    key = _key(pod)
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}"


async def _main(kubeconfig: str | None, logs: Path | None) -> None:
    transport = await Transport.connect(kubeconfig)
    node = asyncio.ensure_future(StandInNode(transport, logs=logs).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, node.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await node
    finally:
        await transport.close()


def main() -> int:
    """Run the stand-in until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="modelfleet_operator.cluster.node", description=__doc__)
    parser.add_argument("--kubeconfig", help="default: $KUBECONFIG")
    parser.add_argument("--logs", type=Path, help="folder for the pods' output; default: discard it")
    arguments = parser.parse_args()
    if arguments.logs:
        arguments.logs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_main(arguments.kubeconfig, arguments.logs))
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
