"""What an estimator is worth on queries that it was not shown.

In: the sums of training, whose sample has rows of all folds. Out: `HeldOut`. Next: `command` prints it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from modelfleet_core.estimation.statistics import Statistics
from modelfleet_core.estimation.training import trained_from

from modelfleet_lab.evaluate.calibration import auc, brier, ece

_FOLD = 0
_LEAST = 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures of the estimator of all other folds; see `evaluate.calibration` for what they are."""

    queries: int
    auc: float | None
    """Mean over models; None where no model has both right and wrong answers."""
    brier: float
    ece: float


def held_out(statistics: Statistics) -> HeldOut | None:
    """Return the figures on the sample's rows of one fold; None where there are too few of them."""
    sample = statistics.sample
    mine = sample.at(np.flatnonzero(sample.fold == _FOLD))
    rest = statistics.without(_FOLD)
    if len(mine.fold) < _LEAST or rest.rows.sum() < _LEAST:
        return None
    estimated = trained_from(rest).predict(mine.x.astype(np.float64)).quality
    quality = mine.quality.astype(np.float64)
    known = ~np.isnan(quality)
    areas = [
        float(auc(estimated[rows, j : j + 1], quality[rows, j : j + 1], np.ones((1, rows.sum())))[0])
        for j, rows in enumerate(known.T)
        if rows.any()
    ]
    usable = [area for area in areas if not np.isnan(area)]
    flat, outcome = estimated[known][:, np.newaxis], quality[known][:, np.newaxis]
    once = np.ones((1, len(flat)))
    return HeldOut(
        queries=len(mine.fold),
        auc=float(np.mean(usable)) if usable else None,
        brier=float(brier(flat, outcome, once)[0]),
        ece=float(ece(flat, outcome, once)[0]),
    )
