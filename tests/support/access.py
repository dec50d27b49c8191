"""Certificates and tokens for tests of who may speak to the capacity service."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
from pathlib import Path

import trustme
from modelfleet_operator.cluster import ClusterError, TokenReview
from modelfleet_sidecar.operator_access import OperatorAccess

from support.leases import CapacityService

AUDIENCE = "modelfleet"
_numbers = itertools.count(1)


def write_pair(folder: Path, authority: trustme.CA, *names: str) -> Path:
    """Write `tls.crt` and `tls.key` as the kubelet does: in a new folder, and a link moves to it."""
    version = folder / f"..{next(_numbers)}"
    version.mkdir(parents=True)
    issued = authority.issue_cert(*(names or ("127.0.0.1",)))
    (version / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (version / "tls.key").write_bytes(issued.private_key_pem.bytes())
    swap_data(folder, version)
    return folder


def swap_data(folder: Path, version: Path) -> None:
    """Let the folder's files be those of `version`."""
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    os.replace(link, folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def made_token(pod: str, *, ends: int | None = None) -> str:
    """Return text in the form of a token, for `Reviews` only: nobody signed it."""
    claims = {"sub": pod} | ({} if ends is None else {"exp": ends})
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{body}.signature-{next(_numbers)}"


def review(pod: str, *, namespace: str = "ml", audience: str = AUDIENCE) -> TokenReview:
    """Return what an API server says of a token that is bound to the pod."""
    return TokenReview(
        authenticated=True,
        user=f"system:serviceaccount:{namespace}:default",
        audiences=(audience,),
        extra={
            "authentication.kubernetes.io/pod-name": (pod,),
            "authentication.kubernetes.io/pod-uid": (f"uid-{pod}",),
        },
    )


class Reviews:
    """What an API server would say of each token, and of no other; it waits while `open` is not set."""

    def __init__(self, **pods: str) -> None:
        """Each pod's token, by its name."""
        self.answers: dict[str, TokenReview | ClusterError] = {
            token: review(pod) for pod, token in pods.items()
        }
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()

    async def review_token(self, token: str, audience: str) -> TokenReview:
        self.asked.append(token)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        answer = self.answers.get(token, TokenReview(authenticated=False, error="it is not known"))
        if isinstance(answer, ClusterError):
            raise answer
        return answer


def access_to(service: CapacityService, authority: trustme.CA, token: Path) -> OperatorAccess:
    return OperatorAccess(f"127.0.0.1:{service.port}", pem(authority), token)
