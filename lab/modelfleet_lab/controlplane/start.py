"""Starts etcd, kube-apiserver and kube-controller-manager from `binaries`; they end with the block.

In comes a state folder; out goes a kubeconfig of an administrator that kubectl, the operator and the stand-in
node use. There is no scheduler and no kubelet: who needs pods to run starts a stand-in node, or a whole node
(`modelfleet_lab.cluster`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelfleet_lab.controlplane import daemon, namespace
from modelfleet_lab.ports import free_ports

# What turns a Deployment into pods and endpoints, and cleans up after it. The controller that evicts pods of
# silent nodes stays out: nodes here have no kubelet that sends heartbeats.
FOR_STAND_IN_NODES = (
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
ALL_CONTROLLERS = ("*",)
# Who did what by a ServiceAccount, so that the rights it has can be compared with those it used.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
    ],
}


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane."""

    kubeconfig: Path
    server: str
    kubectl: Path
    audit_log: Path
    """One JSON object per line for each request of a ServiceAccount outside kube-system."""

    def run_kubectl(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator, `given` on its standard input; the caller looks at `returncode`."""
        return subprocess.run(
            [str(self.kubectl), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )


@contextmanager
def running(
    programs: Mapping[str, Path],
    folder: Path,
    *,
    address: str = namespace.ADDRESS,
    controllers: Sequence[str] = FOR_STAND_IN_NODES,
) -> Iterator[ControlPlane]:
    """Run a control plane whose state and logs lie in `folder`, until the block ends.

    The API server listens on `address`, by default one that exists after `namespace.enter`; it can not be a
    loopback address. Call it from the main thread: the programs end when the thread that started them does.
    Raises `DaemonError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    etcd, peers, port = free_ports(3)
    token = secrets.token_hex(16)
    _write_secret(folder / "tokens.csv", f"{token},admin,admin,system:masters\n")
    _write_secret(folder / "service-accounts.key", _signing_key())
    server = f"https://{address}:{port}"
    certificates = folder / "certificates"
    kubeconfig = folder / "admin.kubeconfig"
    _write_secret(kubeconfig, json.dumps(_kubeconfig(server, certificates / "apiserver.crt", token)))
    (folder / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> daemon.Daemon:
            return stack.enter_context(daemon.running(name, programs[name], arguments, folder))

        start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
            "--unsafe-no-fsync",
        )
        api_server = start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--secure-port={port}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--cert-dir={certificates}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'service-accounts.key'}",
            f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={folder / 'audit-policy.json'}",
            f"--audit-log-path={folder / 'audit.log'}",
        )
        api_server.require(lambda: _why_not_ready(server, certificates / "apiserver.crt", token))
        start(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--controllers={','.join(controllers)}",
            f"--service-account-private-key-file={folder / 'service-accounts.key'}",
            f"--root-ca-file={certificates / 'apiserver.crt'}",
            f"--flex-volume-plugin-dir={folder / 'volume-plugins'}",
            "--leader-elect=false",
            "--secure-port=0",
        )
        yield ControlPlane(kubeconfig, server, programs["kubectl"], folder / "audit.log")


def _why_not_ready(server: str, authority: Path, token: str) -> str:
    """Return what keeps the API server from answering that it is ready; nothing once it does."""
    if not authority.exists():
        return "it has not written its certificate"
    request = urllib.request.Request(f"{server}/readyz", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    try:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority))),
        )
        with opener.open(request, timeout=5):
            return ""
    except OSError as error:  # refused, not trusted, or an answer other than 200
        return str(error)


def _kubeconfig(server: str, authority: Path, token: str) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "local", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }


def _signing_key() -> str:
    """Return a new P-256 private key as PEM: for that curve any 32 bytes below its order are one (SEC 1)."""
    scalar = b"\x00" + secrets.token_bytes(31)
    der = bytes.fromhex("30310201010420") + scalar + bytes.fromhex("a00a06082a8648ce3d030107")
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}-----END EC PRIVATE KEY-----\n"


def _write_secret(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content)
