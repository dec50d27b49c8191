"""The cluster behind a real API server: reads and compare-and-swap writes; kopf brings the events.

In come the operator's requests; out go HTTP requests through `transport` and, from `handlers`, the watched
objects. The API server's versions do the compare-and-swap, so nothing is locked or cached here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import (
    DELETION_COST,
    INJECT_LABEL,
    Event,
    Forbidden,
    Kind,
    LeaderEndpoint,
    LeaderLease,
    NotFound,
    ObjectEvent,
    Record,
    TokenReview,
    Unavailable,
)
from modelfleet_operator.cluster.fields import integer, items, mapping, text
from modelfleet_operator.cluster.objects import (
    config_map,
    event_again,
    event_object,
    lease_object,
    lease_of,
    record_of,
)
from modelfleet_operator.cluster.serving import endpoint_of, review_of, slice_key, slice_object
from modelfleet_operator.cluster.transport import JSON_PATCH, MERGE_PATCH, METADATA, METADATA_LIST, Transport
from modelfleet_operator.handlers import Watching

_log = logging.getLogger(__name__)
_LOOK_AGAIN_SECONDS = 1.0
_ATTEMPTS = 10
_COMPARE_SECONDS = 120.0

_Name = tuple[Kind, ObjectKey]


@dataclass(frozen=True, slots=True)
class _Resource:
    prefix: str
    plural: str
    namespaced: bool = True

    def path(self, key: ObjectKey, subresource: str = "") -> str:
        return f"{self.collection(key.namespace)}/{key.name}{subresource}"

    def collection(self, namespace: str) -> str:
        """Return the path of all objects in the namespace, or in all namespaces if it is empty."""
        within = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return f"{self.prefix}{within}/{self.plural}"


_RESOURCES = {
    Kind.FLEET: _Resource("/apis/modelfleet.io/v1alpha1", "modelfleets"),
    Kind.POLICY: _Resource("/apis/modelfleet.io/v1alpha1", "routingpolicies"),
    Kind.DEPLOYMENT: _Resource("/apis/apps/v1", "deployments"),
    Kind.ENDPOINT_SLICE: _Resource("/apis/discovery.k8s.io/v1", "endpointslices"),
    Kind.NODE: _Resource("/api/v1", "nodes", namespaced=False),
    Kind.POD: _Resource("/api/v1", "pods"),
}
_SLICES = _RESOURCES[Kind.ENDPOINT_SLICE]
_CONFIG_MAPS = _Resource("/api/v1", "configmaps")
_EVENTS = _Resource("/api/v1", "events")
_LEASES = _Resource("/apis/coordination.k8s.io/v1", "leases")
_SERVICES = _Resource("/api/v1", "services")
_TOKEN_REVIEWS = _Resource("/apis/authentication.k8s.io/v1", "tokenreviews", namespaced=False)


class KubernetesCluster:
    """A `Cluster` over a real API server; `namespace` (`""`: all) and `kinds` limit what is watched."""

    def __init__(
        self,
        transport: Transport,
        *,
        namespace: str,
        kubeconfig: str | None,
        kinds: Collection[Kind] = tuple(Kind),
    ) -> None:
        self._transport = transport
        self._namespace = namespace
        self._kinds = kinds
        self._kubeconfig = kubeconfig

    @classmethod
    async def connect(
        cls, *, namespace: str = "", kubeconfig: str | None = None, kinds: Collection[Kind] = tuple(Kind)
    ) -> KubernetesCluster:
        """Use the credentials that `credentials` finds. Raises `Unavailable` when there are none."""
        transport = await Transport.connect(kubeconfig)
        return cls(transport, namespace=namespace, kubeconfig=kubeconfig, kinds=kinds)

    async def run(self, sink: Callable[[ObjectEvent], None], synced: asyncio.Event) -> None:
        """Watch until cancelled. Raises `WatchEnded` when kopf's thread ends by itself.

        kopf neither says when it has told everything that existed, nor what vanished while its watch was
        broken for so long that it had to start anew. So now and then all objects are listed by name here.
        """
        known: dict[_Name, Mapping[str, object]] = {}
        awaited = await self._existing()
        told = asyncio.Event()

        def note(event: ObjectEvent) -> None:
            name = (event.kind, event.key)
            if event.deleted:
                known.pop(name, None)
            else:
                known[name] = event.manifest
            sink(event)
            awaited.discard(name)
            if not awaited:
                told.set()

        async def compare() -> None:
            while awaited:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), _LOOK_AGAIN_SECONDS)
                awaited.intersection_update(await self._existing())
            synced.set()
            while True:
                await asyncio.sleep(_COMPARE_SECONDS)
                try:
                    await self._tell_vanished(known, note)
                except Unavailable as error:
                    _log.warning("can not compare what is known with the API server: %s", error)

        async with Watching(
            note, namespace=self._namespace, kinds=self._kinds, kubeconfig=self._kubeconfig
        ) as watching:
            comparing = asyncio.ensure_future(compare())
            ended = asyncio.ensure_future(watching.ended())
            try:
                done, _ = await asyncio.wait({comparing, ended}, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            finally:
                comparing.cancel()
                ended.cancel()

    async def _tell_vanished(
        self, known: Mapping[_Name, Mapping[str, object]], note: Callable[[ObjectEvent], None]
    ) -> None:
        if missing := known.keys() - await self._existing():
            missing -= await self._existing()  # what was created after the first listing
        for name in missing:
            if (manifest := known.get(name)) is not None:
                note(ObjectEvent(*name, True, manifest))

    async def _existing(self) -> set[_Name]:
        """Return the name of every object there is, waiting for kinds that the server does not know yet."""
        existing: set[_Name] = set()
        for kind in self._kinds:
            resource = _RESOURCES[kind]
            query = {"labelSelector": f"{INJECT_LABEL}=true"} if kind is Kind.POD else {}
            answer = await self._list(kind, resource.collection(self._namespace), query)
            for manifest in items(answer, "items"):
                metadata = mapping(manifest, "metadata")
                existing.add((kind, ObjectKey(text(metadata, "namespace"), text(metadata, "name"))))
        return existing

    async def _list(self, kind: Kind, path: str, query: Mapping[str, str]) -> Mapping[str, object]:
        """List names; wait for a kind that is not installed or not allowed, and a little for a server that is
        not ready."""
        told, failures = False, 0
        while True:
            try:
                return await self._transport.request("GET", path, query=query, accept=METADATA_LIST)
            except NotFound:
                if not told:
                    _log.warning(
                        "the API server does not know the kind %s: apply crds/ to it; waiting", kind.value
                    )
                    told = True
            except Forbidden as error:
                if not told:
                    _log.error(
                        "%s; waiting: grant the operator's ServiceAccount list and watch on it", error.message
                    )
                    told = True
            except Unavailable as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise
                _log.warning("%s; trying again", error)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def get(self, kind: Kind, key: ObjectKey) -> Mapping[str, object]:
        return await self._transport.request("GET", _RESOURCES[kind].path(key))

    async def scale(self, target: ObjectKey, replicas: int, resource_version: str) -> None:
        await self._transport.request(
            "PATCH",
            _RESOURCES[Kind.DEPLOYMENT].path(target, "/scale"),
            body={"metadata": {"resourceVersion": resource_version}, "spec": {"replicas": replicas}},
            content_type=MERGE_PATCH,
        )

    async def annotate(self, target: ObjectKey, annotations: Mapping[str, str], resource_version: str) -> str:
        answer = await self._transport.request(
            "PATCH",
            _RESOURCES[Kind.DEPLOYMENT].path(target),
            body={"metadata": {"resourceVersion": resource_version, "annotations": annotations}},
            content_type=MERGE_PATCH,
        )
        return text(mapping(answer, "metadata"), "resourceVersion")

    async def mark_pod(self, pod: ObjectKey, cost: int | None) -> None:
        value = None if cost is None else str(cost)
        await self._transport.request(
            "PATCH",
            _RESOURCES[Kind.POD].path(pod),
            body={"metadata": {"annotations": {DELETION_COST: value}}},
            content_type=MERGE_PATCH,
        )

    async def write_status(
        self, kind: Kind, key: ObjectKey, resource_version: str, status: Mapping[str, object]
    ) -> None:
        await self._transport.request(
            "PATCH",
            _RESOURCES[kind].path(key, "/status"),
            # A version that is set, unlike one that is tested, makes a stale write a 409 and not a 422.
            body=[
                {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
                {"op": "add", "path": "/status", "value": status},
            ],
            content_type=JSON_PATCH,
        )

    async def read_record(self, key: ObjectKey) -> Record | None:
        try:
            return record_of(await self._transport.request("GET", _CONFIG_MAPS.path(key)))
        except NotFound:
            return None

    async def record_version(self, key: ObjectKey) -> str | None:
        try:
            found = await self._transport.request("GET", _CONFIG_MAPS.path(key), accept=METADATA)
        except NotFound:
            return None
        return text(mapping(found, "metadata"), "resourceVersion")

    async def write_record(self, record: Record) -> Record:
        return record_of(
            await self._write(_CONFIG_MAPS, record.key, config_map(record), record.resource_version)
        )

    async def delete_record(self, key: ObjectKey) -> None:
        with contextlib.suppress(NotFound):
            await self._transport.request("DELETE", _CONFIG_MAPS.path(key))

    async def read_lease(self, key: ObjectKey) -> LeaderLease | None:
        try:
            return lease_of(await self._transport.request("GET", _LEASES.path(key)))
        except NotFound:
            return None

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        return lease_of(await self._write(_LEASES, lease.key, lease_object(lease), lease.resource_version))

    async def post(self, event: Event) -> None:
        name = ObjectKey(event.key.namespace, event.name)
        try:
            found = await self._patch_event(name, event_again(event))
        except NotFound:
            body = event_object(event, count=event.times)
            await self._transport.request("POST", _EVENTS.collection(name.namespace), body=body)
        else:
            await self._patch_event(name, {"count": integer(found, "count") + event.times})

    async def _patch_event(self, name: ObjectKey, body: Mapping[str, object]) -> Mapping[str, object]:
        return await self._transport.request("PATCH", _EVENTS.path(name), body=body, content_type=MERGE_PATCH)

    async def read_endpoint(self, service: ObjectKey) -> LeaderEndpoint:
        owner = await self._transport.request("GET", _SERVICES.path(service))
        try:
            found = await self._transport.request("GET", _SLICES.path(slice_key(service)))
        except NotFound:
            found = None
        return endpoint_of(owner, found)

    async def write_endpoint(self, endpoint: LeaderEndpoint) -> LeaderEndpoint:
        manifest = slice_object(endpoint)
        written = await self._write(_SLICES, slice_key(endpoint.service), manifest, endpoint.resource_version)
        return replace(endpoint, resource_version=text(mapping(written, "metadata"), "resourceVersion"))

    async def review_token(self, token: str, audience: str) -> TokenReview:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        return review_of(await self._transport.request("POST", _TOKEN_REVIEWS.collection(""), body=body))

    async def _write(
        self,
        resource: _Resource,
        key: ObjectKey,
        manifest: Mapping[str, object],
        resource_version: str | None,
    ) -> Mapping[str, object]:
        if resource_version is None:
            return await self._transport.request("POST", resource.collection(key.namespace), body=manifest)
        return await self._transport.request("PUT", resource.path(key), body=manifest)

    async def close(self) -> None:
        await self._transport.close()
