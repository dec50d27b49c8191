"""Stage publish: who calls the capacity service, and as which sidecar it may speak.

In come a call's metadata, the API server's review of its token, and what a report says of its sender; out
goes a `Caller`, or `AdmissionError` with what to do. `tokens` asks the API server, `publish` the rest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from modelfleet_core.leasing.messages import SidecarId

from modelfleet_operator.cluster import TokenReview

MAX_TOKEN = 16_384
"""Characters; tokens of ServiceAccounts have about 1,500."""
_USER = "system:serviceaccount:"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"


class AdmissionError(Exception):
    """A call that is not served: its gRPC status, what its sender is told, and why in one word, to count."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that a token is bound to."""

    namespace: str
    pod: str
    uid: str

    def check(self, sidecar: SidecarId) -> None:
        """Raise `AdmissionError` when a report speaks for another pod than the token."""
        if (sidecar.namespace, sidecar.pod, sidecar.uid) != (self.namespace, self.pod, self.uid):
            raise AdmissionError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the report is of pod {sidecar.namespace}/{sidecar.pod} (UID {sidecar.uid}), the token is "
                f"bound to pod {self.namespace}/{self.pod} (UID {self.uid}): start the sidecar with the "
                "namespace, name and UID of its own pod and with the token projected into that pod",
                "OtherPod",
            )


def bearer_token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the token of a call's `authorization`. Raises `AdmissionError`."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise _unknown(
            "the call has no token: send the metadata `authorization: Bearer TOKEN`, in a sidecar "
            "by MODELFLEET_OPERATOR_TOKEN",
            "NoToken",
        )
    scheme, _, token = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.isascii() or not token.isprintable():
        raise _unknown("the metadata `authorization` is not one `Bearer TOKEN`", "BadToken")
    if not 0 < len(token) <= MAX_TOKEN:
        raise _unknown(f"the token has {len(token)} characters; 1 to {MAX_TOKEN} are taken", "BadToken")
    return token


def caller_of(review: TokenReview, audience: str) -> Caller:
    """Return the pod whose token was reviewed for `audience`. Raises `AdmissionError`."""
    if not review.authenticated:
        why = f" ({review.error})" if review.error else ""
        raise _unknown(
            f"the API server does not accept the token{why}: it must be a projected ServiceAccount token "
            f"with the audience {audience!r} that has not expired",
            "BadToken",
        )
    if audience not in review.audiences:
        raise _unknown(
            f"the token is not for the audience {audience!r}: set `audience` in the pod's projected volume",
            "OtherAudience",
        )
    namespace, _, account = review.user.removeprefix(_USER).partition(":")
    if not review.user.startswith(_USER) or not namespace or not account:
        raise _unknown(f"the token is of {review.user!r}, which is no ServiceAccount", "NoServiceAccount")
    pods, uids = review.extra.get(_POD_NAME, ()), review.extra.get(_POD_UID, ())
    if len(pods) != 1 or len(uids) != 1 or not pods[0] or not uids[0]:
        raise _unknown(
            "the token is not bound to a pod: use one that a projected volume gives, not `kubectl create "
            "token` without --bound-object-kind=Pod nor a Secret of a ServiceAccount",
            "NotBound",
        )
    return Caller(namespace, pods[0], uids[0])


def expiry(token: str) -> float | None:
    """Return when an accepted token ends, in seconds of Unix time; None: it does not say.

    Only for a token that the API server has accepted: nothing is verified here.
    """
    _, _, rest = token.partition(".")
    claims = rest.partition(".")[0]
    try:
        read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    except (ValueError, RecursionError):
        return None
    ends = read.get("exp") if isinstance(read, dict) else None
    return float(ends) if isinstance(ends, int | float) else None


def _unknown(message: str, reason: str) -> AdmissionError:
    return AdmissionError(grpc.StatusCode.UNAUTHENTICATED, message, reason)
