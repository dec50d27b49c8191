"""Write `docs/metrics.md` from the programs' registries; with `--check`, fail if the committed page differs.

Each program's module `telemetry` has `Telemetry().registry` and `LABELS`, which says what labels mean.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "metrics.md"
PROGRAMS = {
    "operator": (
        "modelfleet_operator.telemetry",
        "Port 8080 of its pods; only the leader has figures of fleets.",
    ),
    "injector": ("modelfleet_operator.injection.telemetry", "Port 8080 of its pods."),
    "sidecar": ("modelfleet_sidecar.telemetry", "Port 19090 of every injected pod, named `sidecar-metrics`."),
}
"""By name: the module, and where the metrics are served."""
OURS = "modelfleet_"
HEAD = """# Metrics

Written by `make generate` from the programs; `make check` tells when it is out of date. Every name is as
Prometheus stores it. Counters and histograms also have a series `..._created`: when their first sample came.
Labels hold names from manifests, fixed words and status codes, never what callers can make up. Besides these,
operator and injector serve the Python client's own `process_*` and `python_gc_*`.
[The dashboard and the alerts](observe.md) use nothing else.
"""


@dataclass(frozen=True, slots=True)
class Described:
    """One metric of a program."""

    name: str
    """As its program names it; counters without `_total`."""
    kind: str
    help: str
    labels: Mapping[str, str]
    """Meanings by label."""

    @property
    def shown(self) -> str:
        """Return the name as Prometheus stores it; of a histogram, the stem of its three series."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names that queries may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.shown,)


def described(module: str) -> Iterator[Described]:
    """Yield the metrics of a program, sorted by name. Raises `ValueError` for a label without a meaning."""
    telemetry = importlib.import_module(module)
    registry: CollectorRegistry = telemetry.Telemetry().registry
    found = {
        family.name: (family, labels)
        for collector in tuple(registry._collector_to_names)  # a family without samples shows no labels
        for family, labels in _families(collector)
    }
    used = set()
    for name, (family, labels) in sorted(found.items()):
        if not name.startswith(OURS):
            continue
        meanings = {}
        for label in labels:
            key = f"{name}/{label}" if f"{name}/{label}" in telemetry.LABELS else label
            if key not in telemetry.LABELS:
                raise ValueError(f"{module}.LABELS does not say what {label} of {name} means")
            used.add(key)
            meanings[label] = telemetry.LABELS[key]
        yield Described(name, family.type, family.documentation, meanings)
    if unused := telemetry.LABELS.keys() - used:
        raise ValueError(f"{module}.LABELS names what no metric has: {', '.join(sorted(unused))}")


def _families(collector: object) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    for family in collector.collect():  # type: ignore[attr-defined]
        # Neither kind of metric tells its labels in public before it has a sample.
        owner = collector if isinstance(collector, MetricWrapperBase) else family
        yield family, tuple(getattr(owner, "_labelnames", ()))


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for program, (module, where) in PROGRAMS.items():
        parts.append(f"\n## {program.capitalize()}\n{where}\n")
        parts.append("| metric | type | labels | what it says |\n|---|---|---|---|")
        for metric in described(module):
            labels = "<br>".join(f"`{label}`: {meaning}" for label, meaning in metric.labels.items())
            parts.append(f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed page, write nothing")
    text = page()
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit("docs/metrics.md differs: run tools/gen_metrics.py")
        print("docs/metrics.md is up to date")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
