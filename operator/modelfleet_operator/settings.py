"""The operator's settings: flags, or environment variables of the same name, parsed once at the start.

In: `argv` and the environment. Out: `Settings`, or `SettingsError` with every mistake in words. Next: `app`.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class ClusterKind(Enum):
    KUBERNETES = "kubernetes"
    EMBEDDED = "embedded"


class SettingsError(ValueError):
    """A setting that can not be used; the message names it, its value and what to write instead."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    cluster: ClusterKind
    manifests: tuple[Path, ...]
    """What the embedded cluster starts with."""
    logs: Path | None
    """Where the output of the embedded cluster's pods goes; None: nowhere."""
    capacity_listen: Address
    http_listen: Address
    watch_namespace: str
    """Empty: all."""
    namespace: str
    """Where the operator's own Lease and records are."""
    capacity_tls: Path | None
    """Folder of the capacity service's certificate; None: plain text, so loopback only."""
    token_audience: str
    """What the tokens of sidecars must be for; over TLS only."""
    capacity_service: str
    """Name of the Service that is to lead to the leader; empty: none."""
    pod_ip: str
    """Own address for it."""
    watch_nodes: bool
    """False: nodes are not read, so a pool's stock is its limit."""
    log_level: int
    """As `logging` counts."""
    clock_offset: float
    """Seconds added to the wall clock that budget periods follow (embedded only)."""


_SETTINGS: tuple[tuple[str, str, str], ...] = (
    ("cluster", "kubernetes", "kubernetes, or embedded: a cluster in memory whose pods are local processes"),
    (
        "manifests",
        "",
        "YAML files and folders for the embedded cluster, separated by ':' or in several flags",
    ),
    ("logs", "", "folder for the output of the embedded cluster's pods"),
    ("capacity-listen", "127.0.0.1:7443", "HOST:PORT where sidecars get their leases"),
    (
        "capacity-tls",
        "",
        "folder with tls.crt and tls.key for it, read anew when they change; sidecars then need a token. "
        "Empty: plain text, on loopback only",
    ),
    ("token-audience", "modelfleet", "audience that the tokens of sidecars must have"),
    (
        "capacity-service",
        "",
        "Service without selector in the own namespace that is to lead to the leader; empty: none",
    ),
    ("pod-ip", "", "own address for the capacity Service"),
    ("http-listen", "127.0.0.1:8080", "HOST:PORT of /healthz, /readyz and /metrics"),
    ("watch-namespace", "", "namespace to watch; empty: all"),
    ("watch-nodes", "true", "true, or false: read no nodes; the stock of a pool is then its limit"),
    ("namespace", "default", "namespace of the operator's own Lease and records"),
    ("log-level", "info", "debug, info, warning or error: what is logged, and all that is graver"),
    ("clock-offset", "0", "seconds added to the clock of budget periods (embedded only)"),
)


def parse_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings; flags win over the environment. Raises `SettingsError`; `--help` exits."""
    values = vars(_parser(environ).parse_args(argv))
    try:
        cluster = ClusterKind(values["cluster"])
    except ValueError as error:
        raise _wrong("cluster", values["cluster"], "write kubernetes or embedded") from error
    offset = _seconds("clock-offset", values["clock_offset"])
    manifests = tuple(Path(part) for part in values["manifests"].split(os.pathsep) if part)
    for name, given in (("manifests", manifests), ("clock-offset", offset), ("logs", values["logs"])):
        if given and cluster is not ClusterKind.EMBEDDED:
            value = str(values[name.replace("-", "_")])
            raise _wrong(name, value, "it is for --cluster=embedded only: leave it out")
    if cluster is ClusterKind.EMBEDDED and not manifests:
        raise _wrong("manifests", "", "name the YAML files or folders that the embedded cluster starts with")
    capacity = parse_address("capacity-listen", values["capacity_listen"])
    tls = Path(values["capacity_tls"]) if values["capacity_tls"] else None
    if tls is not None and cluster is not ClusterKind.KUBERNETES:
        raise _wrong(
            "capacity-tls",
            values["capacity_tls"],
            "over TLS sidecars show tokens, which only --cluster=kubernetes can review: leave it out",
        )
    if tls is None and not (_loopback(capacity.host) or _own_network()):
        remedy = (
            "without --capacity-tls leases are sent in plain text, so listen on a loopback address such as "
            "127.0.0.1:7443 (another address only inside a network namespace of its own)"
        )
        raise _wrong("capacity-listen", values["capacity_listen"], remedy)
    return Settings(
        cluster=cluster,
        manifests=manifests,
        logs=Path(values["logs"]) if values["logs"] else None,
        capacity_listen=capacity,
        http_listen=parse_address("http-listen", values["http_listen"]),
        watch_namespace=values["watch_namespace"],
        namespace=values["namespace"],
        capacity_tls=tls,
        token_audience=_audience(values["token_audience"]),
        capacity_service=values["capacity_service"],
        pod_ip=_pod_ip(values["capacity_service"], values["pod_ip"]),
        watch_nodes=_truth("watch-nodes", values["watch_nodes"]),
        log_level=_level(values["log_level"]),
        clock_offset=offset,
    )


class _Joined(argparse.Action):
    """A flag that may be given more than once: its values are joined as in its environment variable."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        first = before is self.default
        setattr(namespace, self.dest, str(values) if first else f"{before}{os.pathsep}{values}")


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelfleet-operator",
        description="Plans and scales fleets of language models and leases their capacity to sidecars.",
        epilog="Every flag has an environment variable: --capacity-listen is MODELFLEET_CAPACITY_LISTEN.",
    )
    for name, default, text in _SETTINGS:
        variable = f"MODELFLEET_{name.upper().replace('-', '_')}"
        shown = f"{text} (default: {default or 'empty'})"
        action = _Joined if name == "manifests" else "store"
        default = environ.get(variable, default)
        parser.add_argument(f"--{name}", default=default, action=action, metavar="VALUE", help=shown)
    return parser


def _wrong(name: str, value: str, remedy: str) -> SettingsError:
    return SettingsError(f"--{name} {value!r} can not be used: {remedy}")


def _level(value: str) -> int:
    levels = {
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "warning": logging.WARNING,
        "error": logging.ERROR,
    }
    if value not in levels:
        raise _wrong("log-level", value, f"write one of {', '.join(levels)}")
    return levels[value]


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError as error:
        raise _wrong(name, value, "write a number of seconds such as 3600") from error
    if not abs(seconds) <= 10 * 366 * 86400:
        raise _wrong(name, value, "write at most ten years")
    return seconds


def parse_address(name: str, value: str) -> Address:
    """Return HOST:PORT of the setting `name`. Raises `SettingsError`."""
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise _wrong(name, value, "write HOST:PORT such as 127.0.0.1:7443 (port 0: any free one)")
    return Address(host, int(port))


def _audience(value: str) -> str:
    if not value:
        raise _wrong(
            "token-audience", value, "write the audience of the sidecars' tokens, such as modelfleet"
        )
    return value


def _pod_ip(service: str, value: str) -> str:
    if not service:
        return ""
    try:
        address = ipaddress.ip_address(value)
    except ValueError as error:
        raise _wrong("pod-ip", value, "--capacity-service needs this pod's IP address") from error
    if address.is_loopback or address.is_unspecified:
        raise _wrong("pod-ip", value, "write the address at which other pods reach this one")
    return str(address)


def _truth(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise _wrong(name, value, "write true or false")
    return value == "true"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _own_network() -> bool:
    """Return whether this process is in another network namespace than the machine's first process."""
    try:
        return os.readlink("/proc/self/ns/net") != os.readlink("/proc/1/ns/net")
    except OSError:
        return False
