"""How sidecars find and are known by the leader, as Kubernetes objects: an EndpointSlice and a TokenReview.

In come values of `cluster`, out go manifests for either adapter, and back again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import LeaderEndpoint, TokenReview
from modelfleet_operator.cluster.fields import integer, items, mapping, strings, text, texts

_SERVICE_LABEL = "kubernetes.io/service-name"
_LABELS = {
    "app.kubernetes.io/managed-by": "modelfleet",
    # Tells the controllers of Kubernetes that this slice is not theirs.
    "endpointslice.kubernetes.io/managed-by": "modelfleet-operator",
}
_EPOCH_ANNOTATION = "modelfleet.io/epoch"


def slice_key(service: ObjectKey) -> ObjectKey:
    """Return where the Service's slice is."""
    return ObjectKey(service.namespace, f"{service.name}-leader")


def slice_object(endpoint: LeaderEndpoint) -> Mapping[str, object]:
    """Return the EndpointSlice; its family is that of its address."""
    key = slice_key(endpoint.service)
    versions = {ipaddress.ip_address(address).version for address in endpoint.addresses}
    metadata: dict[str, object] = {
        "name": key.name,
        "namespace": key.namespace,
        "labels": {**_LABELS, _SERVICE_LABEL: endpoint.service.name},
        "annotations": {_EPOCH_ANNOTATION: str(endpoint.epoch)},
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "name": endpoint.service.name,
                "uid": endpoint.service_uid,
            }
        ],
    }
    if endpoint.resource_version is not None:
        metadata["resourceVersion"] = endpoint.resource_version
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": f"IPv{versions.pop()}",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": endpoint.ready, "serving": endpoint.ready, "terminating": False},
            }
            for address in endpoint.addresses
        ],
        "ports": [{"name": endpoint.port_name, "port": endpoint.port, "protocol": "TCP"}],
    }


def endpoint_of(service: Mapping[str, object], found: Mapping[str, object] | None) -> LeaderEndpoint:
    """Return the Service and its slice, if there is one, as a value."""
    metadata = mapping(service, "metadata")
    key = ObjectKey(text(metadata, "namespace"), text(metadata, "name"))
    ports = items(mapping(service, "spec"), "ports")
    uid, port_name = text(metadata, "uid"), text(ports[0], "name") if ports else ""
    if found is None:
        return LeaderEndpoint(key, uid, port_name, 0, (), False, 0)
    own = mapping(found, "metadata")
    owners = [text(owner, "uid") for owner in items(own, "ownerReferences")]
    ours = text(mapping(own, "labels"), _SERVICE_LABEL) == key.name and owners == [uid]
    open_ports = [(text(port, "name"), integer(port, "port")) for port in items(found, "ports")]
    as_written = ours and len(open_ports) == 1 and open_ports[0][0] == port_name
    epoch = texts(own, "annotations").get(_EPOCH_ANNOTATION, "")
    return LeaderEndpoint(
        service=key,
        service_uid=uid,
        port_name=port_name,
        port=open_ports[0][1] if as_written else 0,
        addresses=tuple(
            address for endpoint in items(found, "endpoints") for address in strings(endpoint, "addresses")
        ),
        ready=all(
            mapping(endpoint, "conditions").get("ready") is not False
            for endpoint in items(found, "endpoints")
        ),
        epoch=int(epoch) if epoch.isascii() and epoch.isdecimal() and len(epoch) < 13 else 0,
        resource_version=text(own, "resourceVersion"),
    )


def review_of(answer: Mapping[str, object]) -> TokenReview:
    """Return the answer to a TokenReview; what is missing counts against the token."""
    status = mapping(answer, "status")
    user = mapping(status, "user")
    extra = mapping(user, "extra")
    return TokenReview(
        authenticated=status.get("authenticated") is True,
        user=text(user, "username"),
        audiences=tuple(strings(status, "audiences")),
        extra={name: tuple(strings(extra, name)) for name in extra},
        error=text(status, "error"),
    )
