"""What the published robust method is told: a low quantile of what estimates would be on other pasts.

In: estimates, past and test. Out: lower estimates. Next: `told`.

The paper refits its estimator on bootstraps of the training queries and plans with the 10 % quantile. A
hundred refits of our estimator would take minutes, so a plain one of the same kind is refitted (half soft
task, half ridge of rank two), and how far its quantile lies below its mean is taken off our estimate.
"""

from __future__ import annotations

import numpy as np

from modelfleet_lab.evaluate.protocol import Part
from modelfleet_lab.methods import FloatArray
from modelfleet_lab.methods.published import bootstrap_quantile
from modelfleet_lab.methods.text_estimates import estimate, features

REPLICATES = 100


def lowered(quality: FloatArray, past: Part, asked: Part, *, seed: int) -> FloatArray:
    """Return (n, m) estimates `quality` of `asked`, less the spread of bootstraps of the past."""
    words = features(past.prompts + asked.prompts)
    known, new = words[: past.size], words[past.size :]
    total = np.zeros_like(quality)

    def refit(drawn: FloatArray) -> FloatArray:
        nonlocal total
        fitted = estimate(known, past.tasks, past.quality, new, weight=drawn)
        total = total + fitted
        return fitted

    low = bootstrap_quantile(refit, past.size, seed=seed, replicates=REPLICATES)
    result: FloatArray = np.clip(quality - (total / REPLICATES - low), 0.0, 1.0)
    return result
