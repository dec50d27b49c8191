"""Stage assign, what scores taught since the base was trained: a correction of its estimates.

In: an embedding and the base's estimates. Out: corrected ones with variance and samples. Next: the decision.
Made by `merging` in the leader, handed to sidecars as a document.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.archive import ArchiveError, pack, unpack
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.values import ModelName

FloatArray = npt.NDArray[np.float64]

SCHEMA = "modelfleet/learned/1"
MOST_BYTES = 1 << 20
_MOST_MODELS = 64
_MOST_NAME = 256
_ARRAYS = ("theta", "deviation", "samples")
_TRIANGLE = np.tril_indices(EMBEDDING)
SURE = 0.3
"""Deviations of a difference between two models that scores must exceed before it counts."""


class LearnedError(ValueError):
    """A document that is not what this version learns."""


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """m models and, in a last row, any other one."""

    version: str
    """Of the content; empty: nothing was learned."""
    base_version: str
    """Of the estimator that this corrects; empty: the manifest's priors."""
    models: tuple[ModelName, ...]
    theta: FloatArray
    """(m + 1, k)"""
    deviation: FloatArray
    """(m + 1, k, k) lower triangular L: L L' is the covariance of theta."""
    samples: FloatArray
    """(m + 1,) weight of the scores behind it, the last one 0."""
    _along: FloatArray = field(init=False, repr=False)
    """(m + m k, k): `theta` and `deviation` without the last row, over each other: one product is faster."""
    _seen: list[float] = field(init=False, repr=False)
    """(m,) of `samples`."""

    def __post_init__(self) -> None:
        theta, deviation = self.theta[:-1], self.deviation[:-1]
        side = np.moveaxis(deviation, 0, 1).reshape(theta.shape[1], -1)
        object.__setattr__(self, "_along", np.ascontiguousarray(np.hstack((theta.T, side)).T))
        object.__setattr__(self, "_seen", self.samples[:-1].tolist())

    def correct(
        self, embedding: FloatArray, base: Sequence[float]
    ) -> tuple[list[float], list[float], list[float]]:
        """Return quality in [0, 1], the variance of that estimate, and samples; each (m,).

        `embedding` (k,), `base` (m,) in the order of `models`. Where samples are 0, the variance says nothing
        and that of the base holds.

        The common part of an error moves all models alike; one model moves against the base's favourite only
        by what its difference exceeds `SURE` deviations, so that the order of models, and with it where
        requests go, follows evidence on both and not the luck of those that were asked. The favourite meets
        just the requests on which it was hoped too much of (the winner's curse): without this, all others
        would seem better than it.
        """
        m = len(base)
        if not m:
            return [], [], []
        product = self._along @ embedding
        doubts = product[m:].reshape(m, -1)
        moved: list[float] = product[:m].tolist()
        variance: list[float] = np.einsum("ij,ij->i", doubts, doubts).tolist()
        favourite = max(range(m), key=base.__getitem__)
        common, doubt = moved[favourite], variance[favourite]
        quality = []
        for usual, own, its in zip(base, moved, variance, strict=True):
            apart = own - common
            surely = math.copysign(max(0.0, abs(apart) - SURE * math.sqrt(its + doubt)), apart)
            quality.append(min(1.0, max(0.0, usual + common + surely)))
        return quality, variance, self._seen

    def for_fleet(self, models: Sequence[ModelName]) -> Learned:
        """Return this for `models`, in their order; what all share holds for those it does not know."""
        place = {name: row for row, name in enumerate(self.models)}
        rows = [place.get(name, len(self.models)) for name in models] + [len(self.models)]
        return replace(
            self,
            models=tuple(models),
            theta=self.theta[rows],
            deviation=self.deviation[rows],
            samples=self.samples[rows],
        )


NOTHING_LEARNED = Learned(
    "", "", (), np.zeros((1, EMBEDDING)), np.zeros((1, EMBEDDING, EMBEDDING)), np.zeros(1)
)


def learned(
    base_version: str,
    models: tuple[ModelName, ...],
    theta: FloatArray,
    covariance: FloatArray,
    samples: FloatArray,
) -> Learned:
    """Return what the posterior over m models says; `theta` (m + 1, k), `samples` (m,)."""
    deviation = np.linalg.cholesky(covariance + 1e-12 * np.eye(EMBEDDING)).astype(np.float64)
    made = Learned("", base_version, models, theta, deviation, np.append(samples, 0.0))
    return replace(made, version=hashlib.sha256(encode(made)).hexdigest()[:16])


def encode(learned: Learned) -> bytes:
    """Return `learned` as a compressed `.npz` of 32-bit floats; equal content gives equal bytes."""
    head = {
        "schema": SCHEMA,
        "version": learned.version,
        "base": learned.base_version,
        "models": list(learned.models),
    }
    arrays = {
        "theta": learned.theta.astype(np.float32),
        "deviation": learned.deviation[:, *_TRIANGLE].astype(np.float32),
        "samples": learned.samples.astype(np.float32),
    }
    return pack(head, arrays)


def decode(data: bytes) -> Learned:
    """Return what `encode` was given, to 32 bits; raise LearnedError if it is anything else."""
    try:
        head, arrays = unpack(data, _ARRAYS, most=MOST_BYTES)
    except ArchiveError as e:
        raise LearnedError(f"not a document of what was learned: {e}") from e
    if head.get("schema") != SCHEMA:
        raise LearnedError(f"schema {str(head.get('schema'))[:60]!r} is not {SCHEMA!r}; update both programs")
    version, base, models = head.get("version"), head.get("base"), head.get("models")
    if not isinstance(version, str) or not isinstance(base, str) or max(len(version), len(base)) > _MOST_NAME:
        raise LearnedError("its versions are not texts")
    if not isinstance(models, list) or len(models) > _MOST_MODELS or len(set(map(str, models))) < len(models):
        raise LearnedError(f"its models are not a list of at most {_MOST_MODELS} different names")
    if not all(isinstance(name, str) and 0 < len(name) <= _MOST_NAME for name in models):
        raise LearnedError("its models are not names")
    rows, triangle = len(models) + 1, len(_TRIANGLE[0])
    wanted = {"theta": (rows, EMBEDDING), "deviation": (rows, triangle), "samples": (rows,)}
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise LearnedError(f"{name} has shape {arrays[name].shape}; that of {rows - 1} models is {shape}")
    if arrays["samples"].min() < 0.0:
        raise LearnedError("samples are negative")
    deviation = np.zeros((rows, EMBEDDING, EMBEDDING))
    deviation[:, *_TRIANGLE] = arrays["deviation"]
    return Learned(
        version=version,
        base_version=base,
        models=tuple(ModelName(name) for name in models),
        theta=arrays["theta"],
        deviation=deviation,
        samples=arrays["samples"],
    )
