"""Stage observe, in the leader: which column of the sums is about which model.

In: models as reports name them. Out: numbers of columns. Next: `meter` adds sums by them.
"""

from __future__ import annotations

import numpy as np

from modelfleet_core.demand.grouping import IntArray
from modelfleet_core.values import ModelName

MAX_MODELS = 256
"""Over all fleets; what is said of more, whatever a sidecar says, is of no model."""
_NO_MODEL = ModelName("")
_MOST_ORDERS = 4096
"""Orders of models in reports that are remembered."""


class Columns:
    """Numbers models from 0 in the order in which they are first heard of; none is ever forgotten."""

    def __init__(self) -> None:
        self._numbers: dict[ModelName, int] = {}
        self._orders: dict[tuple[ModelName, ...], IntArray] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def models(self) -> tuple[ModelName, ...]:
        return tuple(self._numbers)

    def of(self, models: tuple[ModelName, ...]) -> IntArray:
        """Return the columns of these models, the very same array for the same order; new ones get one."""
        columns = self._orders.get(models)
        return self._learn(models) if columns is None else columns

    def _learn(self, models: tuple[ModelName, ...]) -> IntArray:
        if len(self._orders) >= _MOST_ORDERS:
            self._orders.clear()
        for model in models:
            known = model if len(self._numbers) < MAX_MODELS else _NO_MODEL
            if model not in self._numbers:
                self._numbers.setdefault(known, len(self._numbers))
        columns = self._orders[models] = np.array(
            [self._numbers.get(model, MAX_MODELS) for model in models], dtype=np.int64
        )
        return columns
