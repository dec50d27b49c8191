"""The evaluation's figures as JSON: numbers and nulls in a stable order.

In: `Protocol`, `Figures` by policy, sections of the other experiments. Out: a document for `json.dumps`.
Next: the report's page, or whoever checks a claim.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from modelfleet_lab.evaluate.figures import PLOTTED, Figures, versus
from modelfleet_lab.evaluate.protocol import Protocol
from modelfleet_lab.methods import FloatArray

SECTIONS = ("capacity", "order", "pressure", "allocation", "loto", "learning")
SCHEMA = "modelfleet.evaluation/1"
_ATTRIBUTION = {
    "zeroeval": "Apache-2.0, WildEval/ZeroEval @ 8c1485e; token counts are estimates of one tokenizer, list "
    "prices of December 2024",
    "ulab_llmrouter": "MIT, ulab-uiuc/LLMRouter @ 4e7a796; cost is input tokens at the input price",
}
"""By name of the folder."""
_UNKNOWN = "not known: see the documentation of the data"


def document(
    protocol: Protocol,
    found: Mapping[str, Figures],
    *,
    folder: Path,
    command: str,
    resamples: int,
    seconds: float,
    sections: Mapping[str, Mapping[str, object]],
) -> dict[str, object]:
    """Return the whole document; figures of the policy `default` also stand at its top.

    `sections` are the experiments that were asked for, by name; the others are null.
    """
    data = protocol.data
    policies = {name: _policy(figures) for name, figures in found.items()}
    single = protocol.single
    return {
        "schema": SCHEMA,
        "command": command,
        "seed": protocol.seed,
        "resamples": resamples,
        "data": {
            "name": folder.resolve().name,
            "licence": _ATTRIBUTION.get(folder.resolve().name, _UNKNOWN),
            "queries": len(data.prompts),
            "past": protocol.past.size,
            "test": protocol.test.size,
            "tasks": len({task for task in data.tasks if task}),
            "left_out": dict(data.left_out),
        },
        "versions": {
            "modelfleet": metadata.version("modelfleet"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "seconds": round(seconds, 1),
        "models": list(data.models),
        "best_single": {
            "model": data.models[single],
            "quality": protocol.single_quality,
            "cost_usd": protocol.single_cost,
            "past_quality": float(protocol.past.quality[:, single].mean()),
        },
        **policies["default"],
        "policies": policies,
        "versus": {
            name: _versus(found["default"], other) for name, other in found.items() if name != "default"
        },
        "literature": {name: _literature(figures) for name, figures in found.items()},
        "constants": _constants(protocol),
        **{name: _finite(sections.get(name)) for name in SECTIONS},
        "curves": {name: _curve(protocol, figures) for name, figures in found.items()},
        "reliability": {
            name: {
                "predicted": figures.reliability.predicted.tolist(),
                "observed": figures.reliability.observed.tolist(),
                "count": figures.reliability.count.astype(int).tolist(),
            }
            for name, figures in found.items()
            if figures.reliability is not None
        },
    }


def _policy(figures: Figures) -> dict[str, object]:
    entry: dict[str, object] = {}
    for name, figure in figures.named.items():
        entry |= figure.json(name)
    return entry


def _constants(protocol: Protocol) -> dict[str, dict[str, float | None]]:
    """Return every model alone on the test."""
    quality, cost = protocol.test.quality.mean(axis=0), protocol.test.cost.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "quality": quality,
            "cost_usd": cost,
            "relative_quality": quality / protocol.single_quality,
            "cost_share": cost / protocol.single_cost,
        }
    numbers = {name: _numbers(np.asarray(values)) for name, values in columns.items()}
    return {
        model: {name: values[j] for name, values in numbers.items()}
        for j, model in enumerate(protocol.data.models)
    }


def _versus(ours: Figures, theirs: Figures) -> dict[str, object]:
    entry: dict[str, object] = {}
    for name, figure in versus(ours, theirs).items():
        entry |= figure.json(name)
    return entry


def _literature(figures: Figures) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in figures.literature.items()}


def _curve(protocol: Protocol, figures: Figures) -> dict[str, list[float | None]]:
    """Return relative quality at shares of the best single model's cost, with its interval."""
    cost, quality = protocol.single_cost, protocol.single_quality
    at = np.array([figures.curve.quality_at(share * cost) for share in PLOTTED])
    return {
        "cost_share": list(PLOTTED),
        "relative_quality": _numbers(at / quality if quality > 0 else np.full_like(at, np.nan)),
        "low": _numbers(figures.low),
        "high": _numbers(figures.high),
    }


def _finite(entry: object) -> object:
    """Return the entry with null for every figure that is no number: JSON has no word for it."""
    if isinstance(entry, Mapping):
        return {name: _finite(value) for name, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_finite(value) for value in entry]
    return None if isinstance(entry, float) and not np.isfinite(entry) else entry


def _numbers(values: FloatArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
