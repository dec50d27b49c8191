"""Stage publish, the sidecar's side: how the operator is reached, trusted, and told who calls.

In come an address, the CA that signs the operator's certificate and the file of the pod's token; out go a
channel and the metadata of a call, for `lease`. Files are read anew for each connection, since the kubelet
renews them.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

CONNECT_WITHIN_MS = 2_000
"""For one attempt to connect: the address of a pod that is gone answers nothing at all."""
_OPTIONS = (
    # The operator is inside the cluster; a proxy for the world outside must not stand between.
    ("grpc.enable_http_proxy", 0),
    # A connection to a node that is gone ends without a word.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A ping that is under way holds up those of the keepalive, and has a minute of its own to be answered.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.bdp_probe", 0),
    # Our own loop decides when to connect again. The least backoff is also how long a handshake may take.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", CONNECT_WITHIN_MS),
    ("grpc.max_reconnect_backoff_ms", CONNECT_WITHIN_MS),
)

Metadata = tuple[tuple[str, str], ...]


class AccessError(Exception):
    """The CA or the token can not be used now; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class OperatorAccess:
    """`authority` is PEM text or the path of a PEM file; empty: plaintext, and no token is sent."""

    address: str
    authority: str = ""
    token: Path | None = None

    def channel(self) -> grpc.aio.Channel:
        """Return a channel that connects when it is used. Raises `AccessError`."""
        if not self.authority:
            return grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        roots = _authority(self.authority)
        credentials = grpc.ssl_channel_credentials(roots.encode())
        return grpc.aio.secure_channel(self.address, credentials, options=_OPTIONS)

    def metadata(self) -> Metadata:
        """Return what tells the operator who calls. Raises `AccessError`."""
        if not self.authority or self.token is None:
            return ()
        try:
            token = self.token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AccessError(
                f"the token {self.token} can not be read ({_cause(error)}); mount a projected "
                "serviceAccountToken there"
            ) from error
        if not token or not token.isascii() or not token.isprintable():
            raise AccessError(f"the file {self.token} holds no token; mount a projected serviceAccountToken")
        return (("authorization", f"Bearer {token}"),)


def explain(details: str) -> str:
    """Return what gRPC says of a connection, with what to do where it speaks of certificates."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "the operator's certificate is not signed by the CA in MODELFLEET_OPERATOR_CA, or is over: renew "
            f"the CA in this pod, which injection does when the pod is made anew ({details})"
        )
    if "Hostname Verification" in details or "not in peer certificate" in details:
        return (
            "the operator's certificate is not for the host in MODELFLEET_OPERATOR: use a name of its "
            f"subjectAltName ({details})"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return (
            "the operator does not speak TLS: set its --capacity-tls, or leave MODELFLEET_OPERATOR_CA empty "
            f"({details})"
        )
    return details


def check_authority(text: str) -> None:
    """Raise `AccessError` if the PEM text holds no certificate."""
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise AccessError(f"it holds no certificate in PEM ({_cause(error)})") from error


def is_pem(text: str) -> bool:
    """Return whether the text is PEM itself, not the path of a file."""
    return "-----BEGIN" in text


def _authority(text: str) -> str:
    if is_pem(text):
        return text
    try:
        read = Path(text).read_text()
        check_authority(read)
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(
            f"the CA {text} can not be read ({_cause(error)}); mount the CA of its certificate there"
        ) from error
    except AccessError as error:
        raise AccessError(f"the CA {text} can not be used: {error}") from error
    return read


def _cause(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
