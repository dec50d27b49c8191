"""Stage assign, the interface of estimators: what one says of the models' answers to one request.

In: a `Question` and the fleet. Out: a `Forecast`. Next: `estimate` adds what was learned since, and costs.
The estimators of the product stand behind it, and those that users install themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.records import record
from modelfleet_core.values import TaskName

FloatArray = npt.NDArray[np.float64]

UNTOLD_VARIANCE = 0.01
"""Of an estimate that says nothing of its own doubt: a standard deviation of 0.1."""


@record
class Question:
    """One request."""

    profile: RequestProfile
    """`text` is its last message, `task` what it is about, as guessed where nobody named it."""
    named_task: TaskName | None = None
    """As the caller or a rule named it; None: nobody did."""
    features: FloatArray | None = None
    """(`features.FEATURES`,) of the text; None: nobody asked for them."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of the m models of a fleet, in its order."""

    quality: Sequence[float]
    """(m,) in [0, 1]."""
    variance: Sequence[float] | None = None
    """(m,) of the estimate, not of a single answer; None: not known."""
    samples: Sequence[float] | None = None
    """(m,) answers that the estimate rests on; None: not known."""
    output_tokens: Sequence[float] | None = None
    """(m,) expected, NaN where not known; None: nowhere."""
    confidence: float = 1.0
    """In [0, 1]: how much the request is like what the estimator knows."""


class Estimator(Protocol):
    """What a plug-in has to be. It is called in the sidecar's event loop, so it must answer within some
    0.2 ms, and neither wait nor read files there; it may fail, then the sidecar's own estimator answers."""

    def forecast(self, question: Question, fleet: Fleet) -> Forecast:
        """Return what is expected of each model of `fleet`, in its order."""
        ...


class ForecastError(ValueError):
    """A forecast that can not be used; the text says what is wrong with it."""


def checked(said: object, models: int) -> Forecast:
    """Return a forecast of so many models that is sound. Raises ForecastError."""
    if not isinstance(said, Forecast):
        raise ForecastError(f"is no Forecast but {type(said).__name__}")
    if not 0.0 <= _number("confidence", said.confidence) <= 1.0:
        raise ForecastError(f"confidence is {said.confidence}; give 0 to 1")
    quality = _column("quality", said.quality, models)
    if not all(0.0 <= one <= 1.0 for one in quality):
        raise ForecastError("quality holds values outside 0 to 1")
    return Forecast(
        quality=quality,
        variance=_amounts("variance", said.variance, models),
        samples=_amounts("samples", said.samples, models),
        output_tokens=_tokens(said.output_tokens, models),
        confidence=float(said.confidence),
    )


def _amounts(name: str, said: object, models: int) -> list[float] | None:
    if said is None:
        return None
    column = _column(name, said, models)
    if not all(0.0 <= one < math.inf for one in column):
        raise ForecastError(f"{name} holds values that are negative or not finite")
    return column


def _tokens(said: object, models: int) -> list[float] | None:
    if said is None:
        return None
    column = _column("output_tokens", said, models)
    if any(one < 0.0 or math.isinf(one) for one in column):
        raise ForecastError("output_tokens holds values that are negative or infinite")
    return column


def _column(name: str, said: object, models: int) -> list[float]:
    if isinstance(said, np.ndarray):
        said = said.tolist()
    if not isinstance(said, Sequence) or isinstance(said, str | bytes):
        raise ForecastError(f"{name} is no sequence but {type(said).__name__}")
    if len(said) != models:
        raise ForecastError(f"{name} has {len(said)} values for {models} models")
    return [_number(name, one) for one in said]


def _number(name: str, said: object) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float | np.floating | np.integer):
        raise ForecastError(f"{name} holds {type(said).__name__}; give numbers")
    try:
        return float(said)
    except OverflowError:
        return math.inf
