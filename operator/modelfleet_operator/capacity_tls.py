"""Serves stage publish: the capacity service's certificate, read anew when its files change.

In comes a folder with `tls.crt` and `tls.key`, as a mounted Secret gives it; out go credentials for the gRPC
server, which asks at every handshake. Files that do not fit together leave the last good pair in force.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import grpc

from modelfleet_operator.injection.certificates import CERTIFICATE, KEY, CertificateError, expiry

log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


class Certificate:
    """The pair in a folder. Handshakes may come from any thread."""

    def __init__(self, folder: Path, *, expires: Callable[[float], None] = lambda moment: None) -> None:
        """`expires` is called with the end of each certificate that comes into use, in seconds since 1970.

        Raises `CertificateError`.
        """
        self._folder = folder
        self._expires = expires
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a server needs: TLS 1.2 or newer, no certificates of clients."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # type: ignore[arg-type] # the stubs leave out None: nothing changed
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the new pair, or None while the one in use holds. Called at each handshake."""
        with self._lock:
            try:
                signature = self._signature()
                if signature == self._seen:
                    return None
                self._seen = signature
                configuration = self._read()
            except CertificateError as error:
                log.error("the certificate in use stays, since the new one can not be used: %s", error)
                return None
        log.info("a new certificate is in use")
        return configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Files that change meanwhile have another signature than `_seen`, so they are read again."""
        certificate, key = self._folder / CERTIFICATE, self._folder / KEY
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            chain, secret = certificate.read_bytes(), key.read_bytes()
        except ssl.SSLError as error:
            raise CertificateError(
                f"{certificate} and {key} are no certificate and its key in PEM: {error.reason or error}"
            ) from error
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        self._expires(expiry(chain))
        return grpc.ssl_server_certificate_configuration([(secret, chain)])

    def _signature(self) -> _Signature:
        try:
            stats = [(self._folder / name).stat() for name in (CERTIFICATE, KEY)]
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _unreadable(folder: Path, error: OSError) -> CertificateError:
    return CertificateError(
        f"{error.filename or folder} can not be read: {error.strerror or error}; mount a Secret with "
        f"{CERTIFICATE} and {KEY} there"
    )
