"""What every request counts: counters and histograms at a tenth of what the library's own cost.

In: what `telemetry` counts, in one event loop. Out: families of samples for scrapes, as the library's own.
Next: `metrics` keeps them on its registry.

The library's take a lock for every figure, which threads need and one event loop does not.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Series = TypeVar("Series")
Family = TypeVar("Family", bound=Metric)


class Count:
    """One series of a counter."""

    __slots__ = ("created", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.created = time.time()

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`, which is not negative."""
        self.value += amount


class Spread:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "created", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        """Of values up to each bound and above the one before; in the end of those above all."""
        self.total = 0.0
        self.created = time.time()

    def observe(self, value: float) -> None:
        """Count a value, which is a number."""
        self.counts[bisect_left(self._bounds, value)] += 1.0
        self.total += value


class _Tally(Collector, Generic[Series, Family]):
    """A family of series by their labels; one without labels is there from the start."""

    def __init__(self, name: str, about: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._about, self._labels = name, about, tuple(labels)
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.of()
        registry.register(self)

    def of(self, *labels: str) -> Series:
        """Return the series of these labels; none is ever removed."""
        known = self._series.get(labels)
        if known is None:
            known = self._series[labels] = self._made()
        return known

    def describe(self) -> Iterable[Metric]:
        """Return the family without samples."""
        return (self._family(),)

    def collect(self) -> Iterable[Metric]:
        """Return the family with a sample of all series."""
        family = self._family()
        for labels, series in self._series.items():
            self._show(family, labels, series)
        return (family,)

    @abstractmethod
    def _made(self) -> Series: ...
    @abstractmethod
    def _family(self) -> Family: ...
    @abstractmethod
    def _show(self, family: Family, labels: tuple[str, ...], series: Series) -> None: ...


class Counts(_Tally[Count, CounterMetricFamily]):
    """A counter."""

    def _made(self) -> Count:
        return Count()

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._about, labels=self._labels)

    def _show(self, family: CounterMetricFamily, labels: tuple[str, ...], series: Count) -> None:
        family.add_metric(labels, series.value, created=series.created)


class Spreads(_Tally[Spread, HistogramMetricFamily]):
    """A histogram."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        *,
        bounds: Sequence[float],
    ) -> None:
        self._bounds = tuple(map(float, bounds))
        self._named = (*map(repr, self._bounds), "+Inf")
        super().__init__(name, about, labels, registry)

    def _made(self) -> Spread:
        return Spread(self._bounds)

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._about, labels=self._labels)

    def _show(self, family: HistogramMetricFamily, labels: tuple[str, ...], series: Spread) -> None:
        buckets = list(zip(self._named, accumulate(series.counts), strict=True))
        family.add_metric(labels, buckets, series.total)
        named = dict(zip(self._labels, labels, strict=True))
        family.add_sample(f"{self._name}_created", named, series.created)
