"""The injector's settings: flags, or environment variables of the same name, parsed once at the start.

In: `argv` and the environment. Out: `ServeSettings` or `PrintSettings`, or `SettingsError` in words. Next:
`__main__`. Both commands take what the sidecar is to be, so that what is printed is what is injected.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet_operator.injection.sidecar import OWN_VARIABLES, KeyReference, Template
from modelfleet_operator.settings import Address, SettingsError, parse_address

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    listen: Address
    """Of the webhook."""
    http_listen: Address
    """Of probes and metrics."""
    tls: Path
    """Folder with `tls.crt` and `tls.key` of the webhook."""
    authority: Path
    """File with the certificates that the operator's must be signed by."""
    watch_namespace: str
    """Empty: all."""
    drain_seconds: float
    """How long it still takes connections after SIGTERM, while API servers learn of it."""
    template: Template
    """With an empty `authority`, which the file fills."""


@dataclass(frozen=True, slots=True)
class PrintSettings:
    pod: str
    """File of manifests; `-`: standard input; empty: an example."""
    keys: tuple[KeyReference, ...]
    authority: Path
    template: Template


_SIDECAR: tuple[tuple[str, str, str], ...] = (
    ("sidecar-image", "", "image of the sidecar"),
    ("sidecar-pull-policy", "IfNotPresent", "Always, IfNotPresent or Never"),
    (
        "sidecar-resources",
        '{"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "384Mi"}}',
        "its requests and limits, as JSON",
    ),
    ("sidecar-env", "{}", "its further variables, such as HTTPS_PROXY or MODELFLEET_UPSTREAM_CA, as JSON"),
    ("operator", "modelfleet-capacity.modelfleet-system.svc:7443", "HOST:PORT of the capacity service"),
    (
        "operator-ca",
        "/var/run/secrets/modelfleet-capacity/ca.crt",
        "file with the certificates (PEM) that the capacity service's certificate is signed by; it is handed "
        "to each sidecar and read anew when it changes",
    ),
    ("token-audience", "modelfleet", "audience of the token that a sidecar shows to the capacity service"),
    ("token-seconds", "3600", "how long such a token lasts, 600 to 86400; the kubelet renews it"),
    ("journal-size", "64Mi", "largest size of the sidecar's journal"),
    ("log-format", "json", "how the sidecar logs: json or text"),
)
_SERVE: tuple[tuple[str, str, str], ...] = (
    ("listen", "0.0.0.0:8443", "HOST:PORT of the webhook (HTTPS, path /mutate)"),
    ("http-listen", "127.0.0.1:8080", "HOST:PORT of /healthz, /readyz and /metrics"),
    (
        "tls",
        "/var/run/secrets/modelfleet-injector",
        "folder with the webhook's tls.crt and tls.key, read anew when they change",
    ),
    ("watch-namespace", "", "the only namespace whose pods get a sidecar; empty: all"),
    ("drain-seconds", "8", "how long connections are still taken after SIGTERM, 0 to 300"),
)
_PRINT: tuple[tuple[str, str, str], ...] = (
    (
        "pod",
        "",
        "file of Pods, Deployments, StatefulSets, DaemonSets, Jobs, CronJobs (YAML) that are to have the "
        "sidecar; - is standard input; empty: an example",
    ),
    ("keys", "", "API keys of external models, as SECRET/KEY, separated by commas"),
)


def parse_settings(argv: Sequence[str], environ: Mapping[str, str]) -> ServeSettings | PrintSettings:
    """Return the settings; flags win over the environment. Raises `SettingsError`; `--help` exits."""
    printing = argv[:1] == ["print"]
    parser = argparse.ArgumentParser(
        prog="modelfleet-injector print" if printing else "modelfleet-injector",
        description="Prints manifests with the sidecar, for installations without the webhook."
        if printing
        else "Gives the sidecar to pods that ask for it (`modelfleet-injector print` writes it by hand).",
        epilog="Every flag has an environment variable: --sidecar-image is MODELFLEET_SIDECAR_IMAGE.",
    )
    for name, default, text in (*_SIDECAR, *(_PRINT if printing else _SERVE)):
        shown = f"{text} (default: {default or 'empty'})"
        default = environ.get(f"MODELFLEET_{name.upper().replace('-', '_')}") or default
        parser.add_argument(f"--{name}", default=default, metavar="VALUE", help=shown)
    values = vars(parser.parse_args(argv[1:] if printing else argv))
    template = _template(values)
    if printing:
        keys = tuple(_key(part) for part in values["keys"].split(",") if part)
        return PrintSettings(values["pod"], keys, Path(values["operator_ca"]), template)
    return ServeSettings(
        listen=parse_address("listen", values["listen"]),
        http_listen=parse_address("http-listen", values["http_listen"]),
        tls=Path(values["tls"]),
        authority=Path(values["operator_ca"]),
        watch_namespace=values["watch_namespace"],
        drain_seconds=_number("drain-seconds", values["drain_seconds"], 0, 300),
        template=template,
    )


def _template(values: Mapping[str, str]) -> Template:
    if not values["sidecar_image"]:
        raise _wrong("sidecar-image", "", "name the image of the sidecar")
    for name, choices in (
        ("sidecar-pull-policy", ("Always", "IfNotPresent", "Never")),
        ("log-format", ("json", "text")),
    ):
        value = values[name.replace("-", "_")]
        if value not in choices:
            raise _wrong(name, value, f"write one of {', '.join(choices)}")
    if not values["token_audience"]:
        raise _wrong(
            "token-audience", "", "write the audience that the operator asks for, such as modelfleet"
        )
    if not _QUANTITY.fullmatch(values["journal_size"]):
        raise _wrong("journal-size", values["journal_size"], "write a quantity such as 64Mi")
    parse_address("operator", values["operator"])
    return Template(
        image=values["sidecar_image"],
        pull_policy=values["sidecar_pull_policy"],
        resources=_resources(values["sidecar_resources"]),
        operator=values["operator"],
        authority="",
        audience=values["token_audience"],
        token_seconds=int(_number("token-seconds", values["token_seconds"], 600, 86400)),
        journal_size=values["journal_size"],
        log_format=values["log_format"],
        env=_environment(values["sidecar_env"]),
    )


def _resources(value: str) -> Mapping[str, object]:
    """A quantity that is none would make every pod that gets it fail, so each is looked at here."""
    remedy = 'write JSON such as {"requests": {"cpu": "100m"}, "limits": {"memory": "256Mi"}}'
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _wrong("sidecar-resources", value[:200], remedy) from error
    if not isinstance(found, dict) or not found.keys() <= {"requests", "limits"}:
        raise _wrong("sidecar-resources", value[:200], remedy)
    for quantities in found.values():
        if not isinstance(quantities, dict) or not all(
            isinstance(quantity, str | int) and _QUANTITY.fullmatch(str(quantity))
            for quantity in quantities.values()
        ):
            raise _wrong("sidecar-resources", value[:200], remedy)
    return found


def _environment(value: str) -> tuple[tuple[str, str], ...]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        _VARIABLE.fullmatch(name) and isinstance(text, str) for name, text in found.items()
    ):
        raise _wrong("sidecar-env", value[:200], 'write JSON such as {"HTTPS_PROXY": "http://proxy:3128"}')
    if taken := sorted(found.keys() & OWN_VARIABLES):
        raise _wrong("sidecar-env", value[:200], f"leave out {', '.join(taken)}, which the injector sets")
    return tuple(sorted(found.items()))


def _key(value: str) -> KeyReference:
    secret, slash, key = value.strip().partition("/")
    if not (secret and slash and key) or "/" in key:
        raise _wrong("keys", value, "write SECRET/KEY, such as frontier/token")
    return KeyReference(secret, key)


def _number(name: str, value: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise _wrong(name, value, f"write a number from {least:g} to {most:g}")
    return number


def _wrong(name: str, value: str, remedy: str) -> SettingsError:
    return SettingsError(f"--{name} {value!r} can not be used: {remedy}")
