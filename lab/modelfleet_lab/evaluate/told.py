"""Recorded outcomes beside what methods are told of them: what all batch experiments play with.

In: recorded outcomes, split into past and test, and an estimator. Out: a `Split`. Next: `scene`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfleet_lab.methods import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """n queries of the past or of the test, m models. Raises ValueError when shapes disagree."""

    quality: FloatArray
    """(n, m) as recorded, in [0, 1]: what the referee credits."""
    cost: FloatArray
    """(n, m) USD as recorded: what the referee charges."""
    told_quality: FloatArray
    """(n, m) estimated from text. Of the past: by estimators that did not see the query itself, or prices
    that are calibrated on it would trust estimates more than they deserve."""
    told_cost: FloatArray
    """(n, m) USD, estimated alike."""
    told_low: FloatArray | None = None
    """(n, m) 10 % quantile of bootstrap estimates, for the published robust mode; None: not made."""

    def __post_init__(self) -> None:
        shape = self.quality.shape
        others = {"cost": self.cost, "told_quality": self.told_quality, "told_cost": self.told_cost}
        if self.told_low is not None:
            others["told_low"] = self.told_low
        for name, array in others.items():
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape} but quality has {shape}; give both alike")


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The past that methods are tuned on, and the test that they are measured on."""

    models: tuple[str, ...]
    past: Side
    test: Side

    def __post_init__(self) -> None:
        for name, side in (("past", self.past), ("test", self.test)):
            if side.quality.shape[1] != len(self.models):
                raise ValueError(f"{name} has {side.quality.shape[1]} models but {len(self.models)} names")
            if not len(side.quality):
                raise ValueError(f"{name} has no queries; use more data or another seed")
