"""The document: numbers and nulls, whatever an experiment found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from modelfleet_lab.evaluate.figures import measure
from modelfleet_lab.evaluate.protocol import split
from modelfleet_lab.evaluate.result import document
from modelfleet_lab.evaluate.sweeps import constants
from support.recorded_folder import recorded


def test_figures_without_meaning_are_null_at_any_depth() -> None:
    protocol = split(recorded(4, n=100), 0)
    test = protocol.test
    policy = constants(test.size, 4).played(test.quality, test.cost)
    figures = measure(protocol, policy, estimated=None, resamples=20)
    found = document(
        protocol,
        {"default": figures},
        folder=Path("zeroeval"),
        command="modelfleet evaluate",
        resamples=20,
        seconds=1.0,
        sections={"learning": {"recovered": float("nan"), "seeds": [{"x": float("inf"), "y": 1.0}]}},
    )
    text = json.dumps(found, allow_nan=False)
    assert found["learning"] == {"recovered": None, "seeds": [{"x": None, "y": 1.0}]}
    assert found["loto"] is None
    assert found["auc"] is None
    assert "WildEval/ZeroEval @ 8c1485e" in text
    constant = found["constants"]["large"]  # type: ignore[index]
    assert constant["relative_quality"] == test.quality[:, 2].mean() / protocol.single_quality
    assert np.isclose(constant["cost_share"], test.cost[:, 2].mean() / protocol.single_cost)
