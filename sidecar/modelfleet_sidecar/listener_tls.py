"""The certificate of listeners that other pods reach, read anew when its files change.

In: a folder with `tls.crt` and `tls.key`, as a mounted Secret gives it. Out: a context for the HTTP listener
and credentials for the gRPC one; both look at every handshake. Files that do not fit together leave the last
good pair in force.
"""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path

import grpc

log = logging.getLogger(__name__)

CERTIFICATE, KEY = "tls.crt", "tls.key"

_Look = tuple[tuple[int, int, int], ...]


class ListenerCertificateError(Exception):
    """The pair can not be used; says what to do."""


class ListenerCertificate:
    """The pair in a folder. Handshakes may come from any thread."""

    def __init__(self, folder: Path) -> None:
        """Raises ListenerCertificateError."""
        self._folder = folder
        self._lock = threading.Lock()
        self._seen = self._look()
        self._pair = self._read()
        self._context = self._made()

    def context(self) -> ssl.SSLContext:
        """Return what an HTTP/1.1 listener needs: TLS 1.2 or newer, no certificates of callers."""
        self._context.sni_callback = self._shaking_hands
        return self._context

    def credentials(self) -> grpc.ServerCredentials:
        """Return the same for gRPC."""
        told = [self._pair]

        def changed() -> grpc.ServerCertificateConfiguration | None:
            self._follow()
            if self._pair is told[0]:
                return None
            told[0] = self._pair
            return grpc.ssl_server_certificate_configuration([self._pair])

        return grpc.dynamic_ssl_server_credentials(
            grpc.ssl_server_certificate_configuration([self._pair]),
            changed,  # type: ignore[arg-type] # the stubs leave out None: nothing changed
        )

    def _shaking_hands(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self._follow()
        connection.context = self._context

    def _follow(self) -> None:
        """Take over a new pair."""
        with self._lock:
            try:
                seen = self._look()
                if seen == self._seen:
                    return
                self._seen = seen
                self._pair, self._context = self._read(), self._made()
            except ListenerCertificateError as error:
                log.error("the certificate in use stays, since the new one can not be used: %s", error)
            else:
                log.info("a new certificate is in use")

    def _made(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)
        except (ssl.SSLError, OSError) as error:
            raise ListenerCertificateError(
                f"{CERTIFICATE} and {KEY} in {self._folder} are no certificate and its key in PEM: "
                f"{error.strerror or error}"
            ) from error
        return context

    def _read(self) -> tuple[bytes, bytes]:
        try:
            return (self._folder / KEY).read_bytes(), (self._folder / CERTIFICATE).read_bytes()
        except OSError as error:
            raise _unreadable(self._folder, error) from error

    def _look(self) -> _Look:
        try:
            stats = [(self._folder / name).stat() for name in (CERTIFICATE, KEY)]
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        return tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in stats)


def _unreadable(folder: Path, error: OSError) -> ListenerCertificateError:
    return ListenerCertificateError(
        f"{error.filename or folder} can not be read ({error.strerror or error}): mount a Secret with "
        f"{CERTIFICATE} and {KEY} there"
    )
