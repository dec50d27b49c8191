"""Settings of the sidecar: environment variables, each also a flag, read once at start.

In: `sys.argv` and the environment. Out: `Settings`. Next: `app.py` builds everything from it.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from modelfleet_sidecar.gate import namespaces_of
from modelfleet_sidecar.operator_access import AccessError, check_authority, is_pem

LOG_FORMATS = ("text", "json")
ALONE = "standalone"
"""Namespace, name and UID of a sidecar without an operator."""
NO_STATE = "none"
LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A setting that can not be used; the message names it and says what to set."""


class Address(NamedTuple):
    """Where to listen or to connect; port 0 listens on any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sidecar must be told; everything else comes with its lease."""

    operator: Address
    """The operator's capacity service."""
    operator_ca: str
    """PEM of the CA that signs its certificate, or the path of such a file; empty: plaintext."""
    operator_token: Path | None
    """File of the token that tells the operator which pod this is."""
    namespace: str
    pod_name: str
    pod_uid: str
    grpc_listen: Address
    """The Router API; loopback only, but with `tls`."""
    http_listen: Address
    """The OpenAI-compatible API; loopback only, but with `tls`."""
    grpc_socket: Path | None
    """Unix socket that serves the Router API as well; None: none does."""
    http_socket: Path | None
    """Unix socket that serves the OpenAI-compatible API as well; None: none does."""
    admin_listen: Address
    """Health and metrics; carries no requests, so any address."""
    drain_grace: float
    """Seconds that requests in flight get to finish after SIGTERM; the rest of the end takes 7 at most."""
    journal: Path | None
    """Folder that outlives the process, not the pod; None: what a crashed sidecar had stays unused."""
    keys: Path | None
    """Folder with the API keys of external models; None: models that need one are not used."""
    estimator: str
    """Name of an installed estimator; `default`: the sidecar's own."""
    log_format: str
    """`text` or `json`."""
    log_level: str
    """Name of the least important level that is logged, in lower case."""
    config: Path | None = None
    """File with a fleet and a policy, to go by without an operator; None: an operator grants."""
    state: Path | None = None
    """Folder where that keeps ledgers and what it learned; None: nothing outlives the process."""
    upstream_ca: str = ""
    """CAs that model servers' certificates may be signed by besides the system's: PEM, or the path of such a
    file; empty: no others."""
    upstream_tls: Path | None = None
    """Folder with tls.crt and tls.key for model servers that ask for a certificate; None: there is none."""
    tls: Path | None = None
    """Folder with tls.crt and tls.key, by which both APIs speak TLS; None: plaintext, on loopback."""
    auth_keys: Path | None = None
    """Folder with API keys of callers, a file for each; None: there are none."""
    auth_audience: str = ""
    """Audience of ServiceAccounts' tokens that callers may send; empty: none are accepted."""
    auth_namespaces: frozenset[str] | None = frozenset()
    """Namespaces whose ServiceAccounts may call; None: all."""


class _Setting(NamedTuple):
    default: str | None
    """None: it must be set."""
    help: str

    @property
    def required(self) -> bool:
        return self.default is None


SETTINGS: dict[str, _Setting] = {
    "config": _Setting(
        "", "YAML file with a ModelFleet and a RoutingPolicy, to run without an operator; none if empty"
    ),
    "state": _Setting(
        "",
        "folder for ledgers and what was learned, with config; beside it as CONFIG.state if empty, or none",
    ),
    "operator": _Setting("127.0.0.1:7443", "host:port of the operator's capacity service"),
    "operator_ca": _Setting(
        "",
        "CA of its certificate: PEM, or the path of a PEM file; empty: plaintext, to a loopback address only",
    ),
    "operator_token": _Setting("", "path of this pod's token for it, needed with operator_ca"),
    "namespace": _Setting(None, "namespace of this pod"),
    "pod_name": _Setting(None, "name of this pod"),
    "pod_uid": _Setting(None, "UID of this pod"),
    "grpc_listen": _Setting("127.0.0.1:17070", "address of the gRPC Router API (loopback, but with tls)"),
    "http_listen": _Setting(
        "127.0.0.1:18080", "address of the OpenAI-compatible API (loopback, but with tls)"
    ),
    "upstream_ca": _Setting(
        "",
        "CAs that sign certificates of model servers, besides the system's: PEM, or the path of a PEM file",
    ),
    "upstream_tls": _Setting(
        "", "folder with tls.crt and tls.key, the certificate for model servers that ask for one"
    ),
    "tls": _Setting(
        "", "folder with tls.crt and tls.key, so that other pods may call, with auth_keys or auth_audience"
    ),
    "auth_keys": _Setting("", "folder with API keys of callers: a file for each, named after the caller"),
    "auth_audience": _Setting("", "audience of ServiceAccounts' tokens that callers may send"),
    "auth_namespaces": _Setting(
        "", "namespaces whose ServiceAccounts may call, with commas between; its own if empty, or *"
    ),
    "grpc_socket": _Setting("", "path of a Unix socket for the Router API as well, mode 0660"),
    "http_socket": _Setting("", "path of a Unix socket for the OpenAI-compatible API as well, mode 0660"),
    "admin_listen": _Setting("127.0.0.1:19090", "address of /healthz, /readyz and /metrics"),
    "drain_grace": _Setting("20", "seconds to finish requests in flight after SIGTERM"),
    "journal": _Setting(
        "", "folder for the journal of money, such as an emptyDir, so that a crash loses none; none if empty"
    ),
    "keys": _Setting(
        "", "folder with the API keys of external models as SECRET/KEY; without a key its models are not used"
    ),
    "estimator": _Setting(
        "default", "an installed estimator by its name (entry point of the group modelfleet.estimators)"
    ),
    "log_format": _Setting("text", "text or json, one object per line"),
    "log_level": _Setting("info", "debug (each decision), info (each minute's decisions), warning or error"),
}


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"MODELFLEET_{name.upper()}"


def parse_address(name: str, text: str) -> Address:
    """Parse `host:port` or `[ipv6]:port`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(
            f"{variable(name)}={text!r} is no address; write host:port such as 127.0.0.1:8080"
        )
    return Address(host, int(port))


def read_settings(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Settings:
    """Read flags, then the environment, then defaults. Raises SettingsError; `--help` exits."""
    environ = os.environ if environ is None else environ
    parser = argparse.ArgumentParser(
        prog="modelfleet-sidecar",
        description="Routes the requests of one pod to the models of a fleet, within its lease.",
    )
    for name, setting in SETTINGS.items():
        default = "required without config" if setting.required else f"default {setting.default or 'none'}"
        parser.add_argument(
            f"--{name.replace('_', '-')}", help=f"{setting.help} ({variable(name)}; {default})"
        )
    flags = vars(parser.parse_args(argv))
    given = {name: flags[name] or environ.get(variable(name)) or "" for name in SETTINGS}
    if given["config"]:
        _check_alone(given)
    text: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        value = given[name] or setting.default
        if value is None and given["config"]:
            value = ALONE
        if value is None:
            raise SettingsError(f"{variable(name)} is not set; it must be the {setting.help}")
        text[name] = value
    return _settings(text)


def _settings(text: Mapping[str, str]) -> Settings:
    addresses = {
        name: parse_address(name, text[name]) for name in text if name == "operator" or "listen" in name
    }
    _check_gate(addresses, text)
    _check_operator(addresses["operator"], text["operator_ca"], text["operator_token"])
    try:
        grace = float(text["drain_grace"])
    except ValueError:
        grace = -1.0
    if not 0 <= grace <= 3600:
        raise SettingsError(
            f"{variable('drain_grace')}={text['drain_grace']!r} must be seconds from 0 to 3600"
        )
    for name, choices in (("log_format", LOG_FORMATS), ("log_level", LOG_LEVELS)):
        if text[name].lower() not in choices:
            raise SettingsError(f"{variable(name)}={text[name]!r} must be {' or '.join(choices)}")
    settings = Settings(
        config=Path(text["config"]) if text["config"] else None,
        state=_state(text),
        upstream_ca=text["upstream_ca"],
        upstream_tls=Path(text["upstream_tls"]) if text["upstream_tls"] else None,
        tls=Path(text["tls"]) if text["tls"] else None,
        auth_keys=Path(text["auth_keys"]) if text["auth_keys"] else None,
        auth_audience=text["auth_audience"],
        auth_namespaces=namespaces_of(text["auth_namespaces"], text["namespace"]),
        operator=addresses["operator"],
        operator_ca=text["operator_ca"],
        operator_token=Path(text["operator_token"]) if text["operator_token"] else None,
        namespace=text["namespace"],
        pod_name=text["pod_name"],
        pod_uid=text["pod_uid"],
        grpc_listen=addresses["grpc_listen"],
        http_listen=addresses["http_listen"],
        grpc_socket=Path(text["grpc_socket"]) if text["grpc_socket"] else None,
        http_socket=Path(text["http_socket"]) if text["http_socket"] else None,
        admin_listen=addresses["admin_listen"],
        drain_grace=grace,
        journal=Path(text["journal"]) if text["journal"] else None,
        keys=Path(text["keys"]) if text["keys"] else None,
        estimator=text["estimator"],
        log_format=text["log_format"].lower(),
        log_level=text["log_level"].lower(),
    )
    assert {field.name for field in fields(settings)} == set(SETTINGS)  # noqa: S101 - a flag for each field
    return settings


def _check_gate(addresses: Mapping[str, Address], text: Mapping[str, str]) -> None:
    """Whoever can be reached from outside the pod speaks TLS and asks who calls; a secret needs TLS."""
    known = text["auth_keys"] or text["auth_audience"]
    if text["tls"] and not known:
        raise SettingsError(
            f"{variable('tls')} is set, but nothing tells callers apart: set {variable('auth_keys')} or "
            f"{variable('auth_audience')} too"
        )
    if known and not text["tls"]:
        given = "auth_keys" if text["auth_keys"] else "auth_audience"
        raise SettingsError(
            f"{variable(given)} is set without {variable('tls')}, so secrets of callers would travel in "
            "plaintext: set both"
        )
    for name in ("grpc_listen", "http_listen"):
        if not addresses[name].is_loopback and not text["tls"]:
            raise SettingsError(
                f"{variable(name)}={addresses[name]} is reachable from outside the pod, but this API is"
                f" plaintext and has no authentication; use 127.0.0.1 or [::1], or set {variable('tls')} and"
                f" {variable('auth_keys')} or {variable('auth_audience')}"
            )


def _check_alone(given: Mapping[str, str]) -> None:
    for name in ("operator", "operator_ca", "operator_token", "journal"):
        if given[name]:
            raise SettingsError(
                f"{variable(name)} and {variable('config')} are both set: with a config file there is no "
                "operator, and the journal is in the state folder; unset one of them"
            )


def _state(text: Mapping[str, str]) -> Path | None:
    if not text["config"] or text["state"] == NO_STATE:
        return None
    return Path(text["state"] or f"{text['config']}.state")


def _check_operator(operator: Address, authority: str, token: str) -> None:
    """Plaintext stays within the machine, or within a network namespace of its own; a token needs TLS."""
    if not authority and not (operator.is_loopback or _own_network()):
        raise SettingsError(
            f"{variable('operator')}={operator} would be reached in plaintext: set {variable('operator_ca')} "
            f"to the CA of its certificate and {variable('operator_token')} to the path of this pod's token"
        )
    if bool(authority) != bool(token):
        missing, given = ("operator_token", "operator_ca") if authority else ("operator_ca", "operator_token")
        raise SettingsError(f"{variable(given)} is set without {variable(missing)}; set both or neither")
    if is_pem(authority):
        try:
            check_authority(authority)
        except AccessError as error:
            raise SettingsError(f"{variable('operator_ca')} can not be used: {error}") from error


def _own_network() -> bool:
    """Return whether this process is in another network namespace than the machine's first process."""
    try:
        return os.readlink("/proc/self/ns/net") != os.readlink("/proc/1/ns/net")
    except OSError:
        return False
