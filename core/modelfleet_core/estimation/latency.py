"""Stages assign and learn: how long a variant takes to answer, as measured at its load.

In: times of answers, one by one; the manifest's word. Out: `Pace`, whose `seconds` the assignment program
takes as service time. Next: `batching`.

The time to the first token f and the time per output token p are the unknowns of a linear regression,

    seconds to the first token = f,  seconds of n tokens after it = n p,  seconds of a whole answer = f + n p,

with each equation divided by what the manifest says of it, so that all have errors of one size. The manifest
counts as `PRIOR` observations of each unknown; at each load, what was measured at any load counts as `LINK`.
Old observations fade, so that about the last 128 of them count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelfleet_core.catalog import Latency, Variant
from modelfleet_core.values import VariantKey

LOADS = 4
"""Bands of load: shares of a variant's slots that the sidecar itself uses."""
PRIOR = 8.0
LINK = 4.0
_FADE = 1.0 - 1.0 / 128.0
_LEAST_FIRST, _LEAST_TOKEN = 1e-3, 1e-5
"""Seconds; what the manifest gives as less is taken as this much."""
_MOST = 1e3
"""Times the manifest's word: an observation above it counts as that."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What is expected of one variant at one load."""

    latency: Latency
    samples: float
    """Answers behind it that have not faded; 0: the manifest's word."""

    def seconds(self, output_tokens: float) -> float:
        return self.latency.service_time(output_tokens)


@dataclass(slots=True)
class _Sums:
    """Normal equations of the unknowns, relative to the manifest: [[a, c], [c, b]] u = (y, z)."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    y: float = 0.0
    z: float = 0.0
    answers: float = 0.0

    def fade(self) -> None:
        for name in self.__slots__:
            setattr(self, name, _FADE * getattr(self, name))

    def add(self, first: float, token: float, value: float) -> None:
        self.a += first * first
        self.b += token * token
        self.c += first * token
        self.y += first * value
        self.z += token * value

    def solve(self, weight: float, towards: tuple[float, float]) -> tuple[float, float]:
        """Return the unknowns, with `weight` observations of `towards`."""
        a, b, c = self.a + weight, self.b + weight, self.c
        y, z = self.y + weight * towards[0], self.z + weight * towards[1]
        determinant = a * b - c * c
        return max(0.0, (b * y - c * z) / determinant), max(0.0, (a * z - c * y) / determinant)


@dataclass(slots=True)
class _Measured:
    first: float
    """Seconds of the manifest, as units."""
    token: float
    all: _Sums = field(default_factory=_Sums)
    bands: list[_Sums] = field(default_factory=lambda: [_Sums() for _ in range(LOADS)])
    paces: dict[int, Pace] = field(default_factory=dict)
    """By band, until the next observation."""
    said: Latency | None = None
    """The manifest's word that it was compared with last."""


class Paces:
    """What one sidecar has measured of its fleet's variants. Bounded by `keep`; not shared by threads."""

    def __init__(self) -> None:
        self._measured: dict[VariantKey, _Measured] = {}

    def pace(self, variant: Variant, load: float) -> Pace:
        """Return what is expected of `variant` while `load` of its slots are in use."""
        known = self._of(variant)
        if known is None:
            return Pace(variant.latency, 0.0)
        band = _band(load)
        pace = known.paces.get(band)
        if pace is None:
            pace = known.paces[band] = _pace(known, band)
        return pace

    def streamed(self, variant: Variant, load: float, first: float, rest: float, tokens: int) -> None:
        """Count a stream: seconds to its first token, then to its last; `tokens` in all."""
        self._count(variant, load, [(first, 1.0, 0.0), (rest, 0.0, max(0.0, tokens - 1.0))])

    def answered(self, variant: Variant, load: float, seconds: float, tokens: int) -> None:
        """Count an answer that came whole."""
        self._count(variant, load, [(seconds, 1.0, float(tokens))])

    def keep(self, variants: Iterable[VariantKey]) -> None:
        """Forget all others."""
        wanted = frozenset(variants)
        for key in [key for key in self._measured if key not in wanted]:
            del self._measured[key]

    def _of(self, variant: Variant) -> _Measured | None:
        """Return what was measured, if the manifest says of the variant what it said then."""
        known = self._measured.get(variant.key)
        if known is None or known.said is variant.latency:
            return known
        if (known.first, known.token) != _units(variant.latency):
            return None
        known.said = variant.latency
        return known

    def _count(self, variant: Variant, load: float, said: list[tuple[float, float, float]]) -> None:
        known = self._of(variant)
        if known is None:
            known = self._measured[variant.key] = _Measured(*_units(variant.latency))
        sums = (known.all, known.bands[_band(load)])
        for one in sums:
            one.fade()
            one.answers += 1.0
        for seconds, firsts, tokens in said:
            unit = firsts * known.first + tokens * known.token
            if unit <= 0.0 or not 0.0 <= seconds < math.inf:
                continue
            first, token = firsts * known.first / unit, tokens * known.token / unit
            value = min(_MOST, seconds / unit)
            for one in sums:
                one.add(first, token, value)
        known.paces.clear()


def _pace(known: _Measured, band: int) -> Pace:
    first, token = known.bands[band].solve(LINK, known.all.solve(PRIOR, (1.0, 1.0)))
    return Pace(Latency(first * known.first, token * known.token), samples=known.all.answers)


def _units(latency: Latency) -> tuple[float, float]:
    return max(_LEAST_FIRST, latency.time_to_first_token), max(_LEAST_TOKEN, latency.per_output_token)


def _band(load: float) -> int:
    return min(LOADS - 1, max(0, int(load * LOADS)))
