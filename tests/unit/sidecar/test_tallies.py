"""What every request counts is shown to scrapes as the client library's own counters and histograms are."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from modelfleet_sidecar.tallies import Counts, Spreads
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import Metric

BOUNDS = (1e-6, 0.5, 1, 1024)
VALUES = (0.0, 1e-6, 0.3, 0.5, 0.7, 1.0, 1000.25, 5000.0)


def shown(families: Iterable[Metric]) -> list[tuple[object, ...]]:
    """Return all that a scrape tells but for the time at which a series began."""
    return [
        (family.name, family.documentation, family.type, sample.name, sample.labels, value)
        for family in families
        for sample in family.samples
        for value in (None if sample.name.endswith("_created") else sample.value,)
    ]


def test_counters_and_histograms_are_shown_as_the_librarys() -> None:
    own, librarys = CollectorRegistry(), CollectorRegistry()
    for labels in ([], ["model", "tier"]):
        name = f"some_{len(labels)}"
        counts = Counts(f"{name}_cost", "Money.", labels, own)
        counter = Counter(f"{name}_cost", "Money.", labels, registry=librarys)
        spreads = Spreads(f"{name}_seconds", "Time.", labels, own, bounds=BOUNDS)
        histogram = Histogram(f"{name}_seconds", "Time.", labels, buckets=BOUNDS, registry=librarys)
        assert shown(own.collect()) == shown(librarys.collect())  # before anything is counted
        for number, value in enumerate(VALUES):
            of = (f"model-{number % 2}", 'a "tier"')[: len(labels)]
            counts.of(*of).inc()
            counts.of(*of).inc(value)
            spreads.of(*of).observe(value)
            counter_of, histogram_of = (one.labels(*of) if of else one for one in (counter, histogram))
            counter_of.inc()
            counter_of.inc(value)
            histogram_of.observe(value)
        assert shown(own.collect()) == shown(librarys.collect())
    pages = [generate_latest(registry).decode().splitlines() for registry in (own, librarys)]
    ours, theirs = ([line for line in page if "_created" not in line] for page in pages)
    assert ours == theirs
    assert [len(page) for page in pages] == [len(pages[0])] * 2


def test_a_name_is_registered_once() -> None:
    registry = CollectorRegistry()
    Spreads("some_seconds", "Time.", [], registry, bounds=BOUNDS)
    with pytest.raises(ValueError, match="some_seconds"):
        Histogram("some_seconds", "Time.", registry=registry)
