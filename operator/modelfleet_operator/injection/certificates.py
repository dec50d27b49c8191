"""The webhook's certificate and the authority of the operator, read anew when their files change.

In: a folder with `tls.crt` and `tls.key`, and a file of certificates, as mounted Secrets give them. Out: an
`SSLContext` that answers each handshake with the newest good pair, and the newest authority. Next: `server`
listens with the one, `sidecar` hands on the other.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

_log = logging.getLogger(__name__)

CERTIFICATE, KEY = "tls.crt", "tls.key"
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


class CertificateError(ValueError):
    """Files that can not be used; the message names them and says what is wrong."""


class Certificates:
    """Answers handshakes with the newest good pair in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises `CertificateError` when there is no good pair yet."""
        self._certificate, self._key = folder / CERTIFICATE, folder / KEY
        self._seen = self._contents()
        self._newest = self._loaded()
        self.expires = expiry(self._seen[0])
        """When the certificate in use ends, in seconds since 1970."""
        self.context = self._loaded()
        """For a server; it hands every handshake over to the newest pair."""
        self.context.sni_callback = self._choose

    def look(self) -> bool:
        """Use the pair that is there now, if it is another; tell whether it was.

        Raises `CertificateError` once for each content that can not be used; the pair in use stays.
        """
        found = self._contents()
        if found == self._seen:
            return False
        self._seen = found
        self._newest, self.expires = self._loaded(), expiry(found[0])
        return True

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _contents(self) -> tuple[bytes, bytes]:
        return _read(self._certificate), _read(self._key)

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._certificate, self._key)
        except OSError as error:  # SSLError is one
            raise CertificateError(
                f"{self._certificate} and {self._key} are no certificate and its key in PEM: "
                f"{error.strerror or error}"
            ) from error
        return context


class Authority:
    """The certificates (PEM) in a file."""

    def __init__(self, file: Path) -> None:
        """Raises `CertificateError` when there is none yet."""
        self._file = file
        self._seen = _read(file)
        self.text = self._checked()

    def look(self) -> bool:
        """As `Certificates.look`."""
        found = _read(self._file)
        if found == self._seen:
            return False
        self._seen = found
        self.text = self._checked()
        return True

    def _checked(self) -> str:
        try:
            text = self._seen.decode("ascii")
            # Not a default context, which takes the machine's authorities where the text is empty.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (UnicodeDecodeError, ValueError, ssl.SSLError) as error:
            raise CertificateError(f"{self._file} holds no certificates in PEM") from error
        return text


def refresh(look: Callable[[], bool], what: str) -> bool | None:
    """Look for a change and log it; return whether there was one, None when it can not be used."""
    try:
        changed = look()
    except CertificateError as error:
        _log.error("%s stays as it was: %s", what, error)
        return None
    if changed:
        _log.info("%s was read anew", what)
    return changed


def expiry(certificate: bytes) -> float:
    """Return when the first certificate of a PEM text ends, in seconds since 1970 (RFC 5280, 4.1.2.5).

    Raises `CertificateError`.
    """
    try:
        text = certificate.decode("ascii")
        end = text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        fields = _parts(_parts(ssl.PEM_cert_to_DER_cert(text[text.index(ssl.PEM_HEADER) : end]))[0][1])[0]
        parts = [part for part in _parts(fields[1]) if part[0] != _VERSION]
        # serialNumber, signature, issuer, validity
        kind, moment = _parts(parts[3][1])[1]
        written = moment.decode("ascii")
        if kind == _UTC_TIME:  # two digits of the year, 1950 to 2049
            written = ("19" if written >= "50" else "20") + written
        return datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError) as error:
        raise CertificateError("the text holds no certificate in PEM") from error


def _parts(der: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents that stand one after the other in a DER encoding."""
    found = []
    while der:
        length, start = der[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[2:start], "big")
        if start + length > len(der):
            raise ValueError("the encoding is cut off")
        found.append((der[0], der[start : start + length]))
        der = der[start + length :]
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{file} can not be read: {error.strerror}; mount a Secret there") from error
