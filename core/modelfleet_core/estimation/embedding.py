"""Stage assign and learn, few figures of a text: what corrections of estimates depend on.

In: the vector of `features`. Out: `EMBEDDING` figures, the first one 1. Next: `learning`, `learned`.

A fixed linear map of the lexical figures, so that sums of different sidecars add whatever estimator they
have.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import LEXICAL

FloatArray = npt.NDArray[np.float64]

EMBEDDING = 24
"""Length of an embedding, k."""


def embed(x: FloatArray) -> FloatArray:
    """Return the embedding (k,) of features (FEATURES,), or (n, k) of (n, FEATURES)."""
    result = np.ones((*x.shape[:-1], EMBEDDING))
    result[..., 1:] = x[..., :LEXICAL] @ _MAP
    return result


def _signs(rows: int, columns: int) -> FloatArray:
    """Return a fixed matrix of +1 and -1 without pattern (bits of a multiplicative hash)."""
    number = np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    number ^= number >> np.uint64(29)
    number *= np.uint64(0xBF58476D1CE4E5B9)
    bits = (number >> np.uint64(63)).astype(np.float64)
    return (2.0 * bits - 1.0).reshape(rows, columns)


_MAP = _signs(LEXICAL, EMBEDDING - 1) / LEXICAL
