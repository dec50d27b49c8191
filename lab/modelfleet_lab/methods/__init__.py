"""Methods of the field behind one small interface, for simulation and evaluation.

In: a `BatchView`, all that a method may know when it is asked. Out: a column for each request, or not now.
Next: `modelfleet simulate` and the batch experiments of `modelfleet evaluate` serve what was chosen.

Sources, what each method knows and what we changed are in `docs/methods.md`. Methods may remember what they
saw in earlier views; the same views and seed give the same choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BatchView:
    """n waiting requests in order of arrival, m models, and what is left of the limits.

    Raises ValueError when shapes disagree or money is not a number.
    """

    weight: FloatArray
    """(n,) importance."""
    quality: FloatArray
    """(n, m) predicted, in [0, 1]."""
    cost: FloatArray
    """(n, m) expected USD."""
    service_time: FloatArray
    """(n, m) seconds that the request holds a slot."""
    eligible: BoolArray
    """(n, m)"""
    free: IntArray
    """(m,) slots not in use now."""
    slots: IntArray
    """(m,) slots in all."""
    money: float
    """USD that this batch may spend; infinite: no limit."""
    now: float
    """Seconds."""
    quality_low: FloatArray | None = None
    """(n, m) 10 % quantile of bootstrap estimates; None: not known."""

    def __post_init__(self) -> None:
        n, m = self.quality.shape
        shapes = {
            "weight": (self.weight.shape, (n,)),
            "cost": (self.cost.shape, (n, m)),
            "service_time": (self.service_time.shape, (n, m)),
            "eligible": (self.eligible.shape, (n, m)),
            "free": (self.free.shape, (m,)),
            "slots": (self.slots.shape, (m,)),
            "quality_low": ((n, m) if self.quality_low is None else self.quality_low.shape, (n, m)),
        }
        for name, (got, wanted) in shapes.items():
            if got != wanted:
                raise ValueError(f"{name} has shape {got} but quality's {(n, m)} asks for {wanted}")
        if np.isnan(self.money):
            raise ValueError("money is not a number; give infinity where there is no limit")

    @property
    def size(self) -> tuple[int, int]:
        """Requests and models."""
        return self.quality.shape[0], self.quality.shape[1]


class Method(Protocol):
    """Chooses models for a batch; a batch of one request is a batch."""

    @property
    def name(self) -> str: ...

    def choose(self, view: BatchView) -> IntArray:
        """Return (n,) the column of each request; -1: not now.

        Never more requests to a column than `free`, never a cell that is not eligible, and expected costs
        within `money` up to rounding.
        """
        ...
