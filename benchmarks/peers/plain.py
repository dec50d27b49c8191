"""Requests by bare sockets, for what a well-behaved client never does.

In: a target and bytes. Out: a connection on which they were sent; what came back, and how it ended.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.peers.targets import CHAT, Target

PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back on one connection."""

    status: int
    """0: nothing that begins as an answer."""
    body: bytes
    """As on the wire, with the frames of chunks."""
    end: str
    """`whole` by HTTP's own measure, `cut` before that, or `none` within the patience."""


def connect(target: Target) -> socket.socket:
    address = urlsplit(target.http)
    return socket.create_connection((address.hostname, address.port), timeout=PATIENCE)


def head(target: Target, length: int) -> bytes:
    """Return the head of a request with a body of so many bytes."""
    lines = [
        f"POST {CHAT} HTTP/1.1",
        f"Host: {urlsplit(target.http).netloc}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *target.headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def asked(target: Target, body: bytes) -> socket.socket:
    """Return a connection on which a request was sent."""
    connection = connect(target)
    connection.sendall(head(target, len(body)) + body)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> None:
    """Read until `mark` came; raise OSError where it does not."""
    seen = b""
    while mark not in seen:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"the answer ended before {mark!r}")
        seen += piece


def reply(target: Target, body: bytes) -> Reply:
    """Return what one request comes to."""
    content = b""
    with asked(target, body) as connection:
        while not whole(content):
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                return _reply(content, "none")
            except OSError:
                return _reply(content, "cut")
            if not piece:
                return _reply(content, "cut")
            content += piece
    return _reply(content, "whole")


def whole(content: bytes) -> bool:
    """Return whether an answer is there to its end, by its chunks or its length."""
    start, found, body = content.partition(b"\r\n\r\n")
    if not found:
        return False
    names = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in start.split(b"\r\n")[1:])
    }
    if names.get(b"transfer-encoding") == b"chunked":
        return body.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n"
    return b"content-length" in names and len(body) >= int(names[b"content-length"])


def _reply(content: bytes, end: str) -> Reply:
    start, _, body = content.partition(b"\r\n\r\n")
    words = start.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1][:3].isdigit() else 0
    return Reply(status, body, end)
