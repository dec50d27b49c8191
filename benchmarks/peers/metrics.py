"""Figures from Prometheus text: what a histogram counted between two looks.

In: `/metrics`. Out: quantiles.
"""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Mapping

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_BOUND = re.compile(r'(?:^|,)le="([^"]+)"')


def page(admin: str) -> str:
    """Return the metrics of the sidecar whose admin port has this base URL."""
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as response:
        content: bytes = response.read()
    return content.decode()


def buckets(text: str, name: str) -> dict[float, float]:
    """Return the cumulative counts of a histogram by upper bound, all its labels together; empty: none is."""
    found: dict[float, float] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample and sample[1] == f"{name}_bucket" and (bound := _BOUND.search(sample[2] or "")):
            found[float(bound[1])] = found.get(float(bound[1]), 0.0) + float(sample[3])
    return found


def value(text: str, name: str) -> float:
    """Return the sum of a metric over its labels; 0 where it has no sample."""
    samples = (_SAMPLE.match(line) for line in text.splitlines())
    return sum(float(sample[3]) for sample in samples if sample and sample[1] == name)


def quantile(before: Mapping[float, float], after: Mapping[float, float], q: float) -> float | None:
    """Return a bound that a part `q` of what was counted in between does not exceed, linear within a bucket.

    None: nothing was counted, or the quantile is above the last finite bound.
    """
    counts = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    if not counts or counts[math.inf] <= 0:
        return None
    rank = q * counts[math.inf]
    lower, below = 0.0, 0.0
    for bound in sorted(counts):
        if counts[bound] >= rank:
            if math.isinf(bound):
                return None
            return lower + (bound - lower) * (rank - below) / (counts[bound] - below)
        lower, below = bound, counts[bound]
    return None
