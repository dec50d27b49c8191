"""Stage forward, the wire: how a connection to a model server comes about.

In: an origin. Out: a connection: addresses resolved anew each time and tried side by side, through a proxy
where the environment names one and the server is no pod, by TLS with the authorities and the certificate of
the settings. Next: `upstream` keeps it for a while.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modelfleet_sidecar.operator_access import is_pem

STAGGER = 0.25
"""Seconds after which the next address is tried beside the one before (RFC 8305)."""
MAX_ADDRESSES = 8
MAX_REPLY = 16 * 1024
"""Bytes of a proxy's answer to CONNECT."""
CERTIFICATE, KEY = "tls.crt", "tls.key"


class DialError(OSError):
    """No connection came about, for a reason that is no error of the system's."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What connections are pooled by."""

    secure: bool
    host: str
    port: int
    outside: bool = False
    """Whether it is an external endpoint, no pod: only these are asked through a proxy."""
    certified: str = ""
    """Name that its certificate must be for; empty: the host's."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is spoken to in plaintext; what it passes on may be TLS."""

    host: str
    port: int
    authorization: str
    """Value of the header Proxy-Authorization; empty: none."""


@dataclass(frozen=True, slots=True)
class Proxies:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say, in capitals or not."""

    https: Proxy | None = None
    http: Proxy | None = None
    direct: tuple[str, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Proxies:
        """Raises ValueError for what is no URL of a proxy."""

        def said(name: str) -> str:
            return environ.get(name.lower()) or environ.get(name) or ""

        direct = tuple(part.strip().lower() for part in said("NO_PROXY").split(",") if part.strip())
        both = said("ALL_PROXY")
        return cls(
            _proxy("HTTPS_PROXY", said("HTTPS_PROXY") or both),
            _proxy("HTTP_PROXY", said("HTTP_PROXY") or both),
            direct,
        )

    def through(self, origin: Origin) -> Proxy | None:
        """Return the proxy for an origin; None: it is asked directly."""
        proxy = self.https if origin.secure else self.http
        if proxy is None or not origin.outside or self._direct(origin.host.lower(), origin.port):
            return None
        return proxy

    def _direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_covers(part, host, port, address) for part in self.direct)


class UpstreamTls:
    """The context of TLS connections, made anew when the files change."""

    def __init__(self, authority: str, certificate: Path | None) -> None:
        """`authority`: CAs that count besides the system's, as PEM or the path of such a file; empty: none
        do. `certificate`: folder with `tls.crt` and `tls.key`, shown to servers that ask for one."""
        self._given = authority if is_pem(authority) else None
        self._authority = Path(authority) if authority and self._given is None else None
        self._certificate = certificate
        self._made: tuple[object, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context in force. Raises OSError that says which file is at fault."""
        files = [self._authority] if self._authority is not None else []
        if self._certificate is not None:
            files += [self._certificate / CERTIFICATE, self._certificate / KEY]
        look = [(found.st_ino, found.st_mtime_ns, found.st_size) for found in map(os.stat, files)]
        if self._made is None or self._made[0] != look:
            self._made = look, self._new()
        return self._made[1]

    def _new(self) -> ssl.SSLContext:
        context = ssl.create_default_context()  # the certificate must name the host
        context.set_alpn_protocols(["http/1.1"])
        if self._given is not None:
            try:
                context.load_verify_locations(cadata=self._given)
            except (ssl.SSLError, ValueError) as error:
                raise DialError(
                    "the authorities that are given as text are no certificates in PEM"
                ) from error
        if self._authority is not None:
            try:
                context.load_verify_locations(self._authority)
            except ssl.SSLError as error:
                raise DialError(f"{self._authority} holds no certificates in PEM") from error
        if self._certificate is not None:
            try:
                context.load_cert_chain(self._certificate / CERTIFICATE, self._certificate / KEY)
            except ssl.SSLError as error:
                raise DialError(
                    f"{CERTIFICATE} and {KEY} in {self._certificate} are no certificate and its key in PEM"
                ) from error
        return context


class Dialer:
    """Opens connections."""

    def __init__(
        self,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        proxies: Proxies = Proxies(),
    ) -> None:
        """`tls`: what connections by TLS go by, which may raise OSError; None: the system's CAs."""
        self._tls = tls if tls is not None else UpstreamTls("", None).context
        self._proxies = proxies

    async def dial(
        self, origin: Origin, made: Callable[[Proxy | None], asyncio.Protocol]
    ) -> asyncio.Protocol:
        """Return a connected protocol, as `made` by the proxy that is asked in the server's stead. Raises
        OSError and UnicodeError."""
        loop = asyncio.get_running_loop()
        context = self._tls() if origin.secure else None
        name = None if context is None else origin.certified or origin.host
        proxy = self._proxies.through(origin)
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        if proxy is None and _address(host) is not None:  # such as a pod's: nothing to resolve or to choose
            _, protocol = await loop.create_connection(
                lambda: made(None), host, port, ssl=context, server_hostname=name
            )
            return protocol
        reached = await _reach(loop, host, port)
        try:
            if proxy is not None and context is not None:
                await _tunnel(loop, reached, origin, proxy)
            _, protocol = await loop.create_connection(
                lambda: made(None if context is not None else proxy),
                sock=reached,
                ssl=context,
                server_hostname=name,
            )
        except BaseException:
            reached.close()
            raise
        return protocol


async def _reach(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of a name that answers."""
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    waiting = _interleaved([(family, address) for family, _, _, _, address in found])[:MAX_ADDRESSES]
    attempts: set[asyncio.Task[socket.socket]] = set()
    failed: BaseException = DialError(f"{host} has no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_connected(loop, *waiting.pop(0))))
            done, attempts = await asyncio.wait(
                attempts, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in sorted(done, key=lambda attempt: attempt.exception() is not None):
                if (error := attempt.exception()) is None:
                    attempts |= done - {attempt}
                    return attempt.result()
                failed = error
        raise failed
    finally:
        for attempt in attempts:
            attempt.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()


async def _connected(
    loop: asyncio.AbstractEventLoop, family: int, address: tuple[object, ...]
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await loop.sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


async def _tunnel(
    loop: asyncio.AbstractEventLoop, reached: socket.socket, origin: Origin, proxy: Proxy
) -> None:
    """Ask a proxy to connect us with the server."""
    server = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    authorization = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    head = f"CONNECT {server} HTTP/1.1\r\nhost: {server}\r\n{authorization}\r\n"
    await loop.sock_sendall(reached, head.encode("latin-1"))
    reply = b""
    while b"\r\n\r\n" not in reply:
        part = await loop.sock_recv(reached, 4096)
        reply += part
        if not part or len(reply) > MAX_REPLY:
            raise DialError(f"the proxy {proxy.host}:{proxy.port} did not answer CONNECT")
    status = reply.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if status != [b"200"] or not reply.endswith(b"\r\n\r\n"):
        said = status[0][:3].decode("latin-1") if status else "nothing that is HTTP"
        raise DialError(f"the proxy {proxy.host}:{proxy.port} answers CONNECT {server} with {said}")


def _interleaved(addresses: list[tuple[int, tuple[object, ...]]]) -> list[tuple[int, tuple[object, ...]]]:
    """Return addresses with their families in turn, the first one's first."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    mixed = [one for pair in zip(first, others, strict=False) for one in pair]
    return mixed + first[len(others) :] + others[len(first) :]


def _proxy(name: str, text: str) -> Proxy | None:
    if not text:
        return None
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        port = url.port or 80
    except ValueError as error:
        raise ValueError(f"{name} is no URL of a proxy: write http://HOST:PORT") from error
    if url.scheme != "http" or not url.hostname:
        raise ValueError(f"{name} is no proxy that is spoken to by http: write http://HOST:PORT")
    secret = f"{unquote(url.username or '')}:{unquote(url.password or '')}" if url.username else ""
    basic = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret else ""
    return Proxy(url.hostname, port, basic)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _covers(
    part: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
) -> bool:
    """Return whether an entry of NO_PROXY, in lower case, is about a host: `*`, a name with all below it, an
    address or a range of them; each may end in a port."""
    if part == "*":
        return True
    name, colon, said = part.rpartition(":")
    if colon and said.isdecimal() and (":" not in name or name.endswith("]")):
        if int(said) != port:
            return False
        part = name
    if address is not None:
        try:
            return address in ipaddress.ip_network(part.strip("[]"), strict=False)
        except ValueError:
            return False
    part = part.removeprefix("*").removeprefix(".")
    return host == part or host.endswith(f".{part}")
