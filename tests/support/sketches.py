"""Builders of sketches and their reports: figures by cell and model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from modelfleet_core.demand import ModelOffer
from modelfleet_core.demand.cells import CellKey
from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.values import ModelName, TaskName, TierName

GOLD = TierName("gold")


def cell(task: str, tier: TierName = GOLD) -> CellKey:
    return tier, TaskName(task)


def offers(**models: tuple[float, float, float]) -> dict[ModelName, ModelOffer]:
    """Offers of (quality, USD, seconds)."""
    return {ModelName(name): ModelOffer(*figures) for name, figures in models.items()}


def seen(cells: Mapping[CellKey, tuple[float, Mapping[ModelName, ModelOffer]]]) -> DemandReport:
    """Return a report of cells with `arrivals` and the same offers all the time."""
    models = tuple(dict.fromkeys(model for _, offered in cells.values() for model in offered))
    sums = np.zeros((len(cells), len(models), 4))
    for row, (arrivals, offered) in enumerate(cells.values()):
        for model, offer in offered.items():
            figures = [1.0, offer.quality, offer.cost_usd, offer.service_time]
            sums[row, models.index(model)] = arrivals * np.array(figures)
    return DemandReport(models, tuple(cells), np.array([a for a, _ in cells.values()], dtype=float), sums)
