"""The metrics that the programs have, as `tools/gen_metrics.py` reads them from the registries."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_metrics", ROOT / "tools" / "gen_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


GENERATOR: Any = _generator()
PROGRAMS: dict[str, tuple[str, str]] = GENERATOR.PROGRAMS


def series() -> dict[str, frozenset[str]]:
    """Return every name that a query may use, with its labels but for those of the target."""
    found: dict[str, frozenset[str]] = {}
    for module, _ in PROGRAMS.values():
        for metric in GENERATOR.described(module):
            for name in metric.series:
                labels = {*metric.labels, "le"} if name.endswith("_bucket") else {*metric.labels}
                found[name] = frozenset(labels)
    return found
