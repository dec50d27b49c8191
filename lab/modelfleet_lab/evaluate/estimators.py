"""Estimators that are told the past: ours, and those that it must beat.

In: the `Part` of the past, and the queries to estimate. Out: `Told` quality for each query and model. Next:
`sweeps` makes policies of them; `costs` adds what an answer would cost, alike for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate.protocol import Part
from modelfleet_lab.methods import FloatArray
from modelfleet_lab.methods.text_estimates import estimate, features


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Estimates for n queries and m models."""

    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) USD."""


def ours(past: Part, asked: Part) -> Told:
    """Return the estimates of text alone."""
    words = features(past.prompts + asked.prompts)
    known, new = words[: past.size], words[past.size :]
    found = estimate(known, past.tasks, past.quality, past.cost, new)
    return Told(found.quality, found.cost)


def task_mean(past: Part, asked: Part, cost: FloatArray) -> Told:
    """Return each model's mean over the task, whose label is known; of a task without past, over all."""
    means = {task: past.quality[[t == task for t in past.tasks]].mean(axis=0) for task in set(past.tasks)}
    overall = past.quality.mean(axis=0)
    return Told(np.array([means.get(task, overall) for task in asked.tasks]), cost)
