"""Sums of training without one of their folds."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.statistics import Batch, Statistics, fold_of
from modelfleet_core.values import ModelName, TaskName

MODELS = (ModelName("a"), ModelName("b"))


def summed(texts: list[str]) -> Statistics:
    statistics = Statistics.none(MODELS)
    numbers = np.array([len(text) + sum(text.encode()) for text in texts], np.float64)
    statistics.add(
        Batch(
            x=feature_matrix(texts),
            task=tuple(TaskName("even" if n % 2 == 0 else "odd") for n in numbers),
            quality=np.column_stack([numbers % 2, numbers % 3 / 2]),
            output_tokens=np.column_stack([numbers, np.full(len(numbers), np.nan)]),
            fold=np.array([fold_of(text) for text in texts]),
        )
    )
    return statistics


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.allclose(one, other, equal_nan=True))
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return one == other


def test_sums_without_a_fold_are_those_of_the_other_rows() -> None:
    texts = [f"How many are {i} and {i * i}?" for i in range(60)]
    rest = [text for text in texts if fold_of(text) != 2]
    assert 0 < len(rest) < len(texts)
    found = summed(texts).without(2)
    assert same(found, summed(rest))
    assert not same(found, summed(texts))
