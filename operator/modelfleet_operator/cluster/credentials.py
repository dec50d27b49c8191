"""Finds how to reach the API server: one way for our own requests and for kopf's watches.

In comes a kubeconfig, `$KUBECONFIG` or what Kubernetes mounts into a pod; out go the official client's
configuration for `transport` and kopf's connection for `handlers`.
"""

from __future__ import annotations

import kopf
from kubernetes.aio import client, config

from modelfleet_operator.cluster import Unavailable


async def credentials(kubeconfig: str | None = None) -> client.Configuration:
    """Use `kubeconfig` if given, else the pod's own credentials, else `$KUBECONFIG` or `~/.kube/config`.

    Raises `Unavailable` when none of them is there or can be read.
    """
    found = client.Configuration()
    try:
        if kubeconfig is None:
            try:
                config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
                return found
            except config.ConfigException:
                pass  # not in a pod
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=found
        )
    except config.ConfigException as error:
        raise Unavailable(
            f"no credentials for a Kubernetes API server: {error}; set KUBECONFIG or run in a pod"
        ) from error
    return found


async def connection(kubeconfig: str | None = None) -> kopf.ConnectionInfo:
    """Return the same for kopf, which asks again when the API server no longer accepts them."""
    try:
        found = await credentials(kubeconfig)
    except Unavailable as error:
        raise kopf.LoginError(str(error)) from error
    header = await found.get_api_key_with_prefix("BearerToken", alias="authorization")
    # The scheme is written in either case: "bearer" in a pod, "Bearer" from a kubeconfig.
    _, _, token = (header or "").partition(" ")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        ca_data=found.ca_cert_data,
        insecure=not found.verify_ssl,
        token=token or None,
        username=found.username or None,
        password=found.password or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )
