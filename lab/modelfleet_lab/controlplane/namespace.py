"""Gives this process a network of its own, where every address of 10.244.0.0/16 is local.

Kubernetes refuses endpoints on loopback addresses. In here pods are processes that bind addresses such as
10.244.1.7, nothing reaches them from outside, and nothing of the machine's network is changed or left behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys

ADDRESS = "10.244.0.1"
"""The address of servers that all pods share, such as the API server."""
NETWORK = "10.244.0.0/16"

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_IFF_UP = 1


class NamespaceError(RuntimeError):
    """This process may not have, or can not set up, a network of its own."""


def rehearse() -> None:
    """Raise `NamespaceError` if `enter` would; changes nothing, since another process tries it."""
    program = (
        "from modelfleet_lab.controlplane import namespace\n"
        "try:\n namespace.enter()\n"
        "except namespace.NamespaceError as error:\n raise SystemExit(str(error))"
    )
    tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise NamespaceError(tried.stderr.strip())


def enter() -> None:
    """Move the calling thread, and what it starts from now on, into a new network with only loopback.

    Call it from the main thread before other threads exist. Raises `NamespaceError`.
    """
    if sys.platform != "linux":
        raise NamespaceError(f"no network of its own for this process on {sys.platform}: this needs Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise NamespaceError(
            f"no network of its own for this process: {os.strerror(ctypes.get_errno())}; run it as root on "
            "Linux, or under `unshare --user --map-root-user --net`"
        )
    bring_up(netmask="255.255.0.0")


def bring_up(netmask: str) -> None:
    """Switch the loopback interface of a new network on and give it `ADDRESS`.

    All addresses under `netmask` become local there: with a mask of 16 bits any pod address can be bound.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, _request("lo", b"")), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, _request("lo", struct.pack("h", flags | _IFF_UP)))
        fcntl.ioctl(control, _SIOCSIFADDR, _request("lo:pods", _address(ADDRESS)))
        fcntl.ioctl(control, _SIOCSIFNETMASK, _request("lo:pods", _address(netmask)))


def _address(dotted: str) -> bytes:
    return struct.pack("hH4s", socket.AF_INET, 0, socket.inet_aton(dotted))


def _request(interface: str, value: bytes) -> bytes:
    """Return a `struct ifreq`: the interface's name and one value."""
    return struct.pack("16s24s", interface.encode(), value)
