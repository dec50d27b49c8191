"""The figures of one policy, with intervals.

In: a `Played` policy and, where it has any, its own estimates. Out: `Figures`. Next: `tables` and
`result` show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate import calibration, published
from modelfleet_lab.evaluate.curves import Curve, cost_share, relative_quality
from modelfleet_lab.evaluate.intervals import draws, interval, read_curves, resampled
from modelfleet_lab.evaluate.protocol import Protocol
from modelfleet_lab.evaluate.sweeps import Played
from modelfleet_lab.methods import FloatArray

SHARES = (95, 98, 100)
"""Percent of the best single model's quality whose cost is told: k95, k98, k100."""
FRACTIONS = (*range(5, 101, 5), 37)
"""Percent of the best single model's cost at which quality is told: r05 .. r100, and r37."""
CURVE_NAMES = (*(f"k{t}" for t in SHARES), *(f"r{f:02d}" for f in sorted(FRACTIONS)))
PLOTTED = tuple(np.round(np.concatenate((np.linspace(0, 0.2, 21), np.linspace(0.22, 1.2, 50))), 4).tolist())
"""Cost shares of the plotted curves."""


@dataclass(frozen=True, slots=True)
class Figure:
    """NaN or infinite: it has no meaning here, or is not reached."""

    value: float
    interval: tuple[float, float] | None

    def json(self, name: str) -> dict[str, object]:
        known = bool(np.isfinite(self.value))
        return {
            name: self.value if known else None,
            f"{name}_ci": list(self.interval) if known and self.interval is not None else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """One policy."""

    named: Mapping[str, Figure]
    curve: Curve
    low: FloatArray
    """(p,) ends of the interval of relative quality at `PLOTTED`."""
    high: FloatArray
    reliability: calibration.Reliability | None
    samples: FloatArray
    """(b, f) the figures of `CURVE_NAMES` in each resample: the same queries for every policy."""
    literature: Mapping[str, float]
    """Measures of `published`, without intervals."""


def _read(of: Curve, single_cost: float, single_quality: float) -> FloatArray:
    """Return K@t of `SHARES`, R@f of `FRACTIONS` in order, and R at `PLOTTED`."""
    by = {"single_cost": single_cost, "single_quality": single_quality}
    shares = [cost_share(of, t / 100, **by) for t in SHARES]
    fractions = [relative_quality(of, f / 100, **by) for f in sorted(FRACTIONS)]
    plotted = [relative_quality(of, f, **by) for f in PLOTTED]
    return np.array(shares + fractions + plotted)


def measure(protocol: Protocol, policy: Played, *, estimated: FloatArray | None, resamples: int) -> Figures:
    """Return the figures of a policy on the test; `estimated` (n, m) are its own estimates of quality."""
    test, seed = protocol.test, protocol.seed
    # The last row is the best single model itself: it is drawn anew with the policy.
    each_quality = np.vstack((policy.quality, test.quality[:, protocol.single]))
    each_cost = np.vstack((policy.cost, test.cost[:, protocol.single]))
    costs, qualities = resampled(each_cost, each_quality, test.size, resamples, seed)
    found = read_curves(
        costs[:, :-1],
        qualities[:, :-1],
        lambda b, of: _read(of, float(costs[b, -1]), float(qualities[b, -1])),
    )
    whole = policy.curve
    values = _read(whole, protocol.single_cost, protocol.single_quality)
    named = {name: Figure(float(values[i]), interval(found[:, i])) for i, name in enumerate(CURVE_NAMES)}
    plotted = found[:, len(CURVE_NAMES) :]
    ends = [interval(plotted[:, i]) or (np.nan, np.nan) for i in range(len(PLOTTED))]
    return Figures(
        named=_calibrated(protocol, estimated, resamples) | named,
        curve=whole,
        low=np.array([low for low, _ in ends]),
        high=np.array([high for _, high in ends]),
        reliability=None if estimated is None else calibration.reliability(estimated, test.quality),
        samples=found[:, : len(CURVE_NAMES)],
        literature=_literature(protocol, policy, whole),
    )


def versus(ours: Figures, theirs: Figures) -> dict[str, Figure]:
    """Return ours minus theirs by name, with intervals of the paired resamples."""
    with np.errstate(invalid="ignore"):  # Neither reaches it: infinite less infinite.
        samples = ours.samples - theirs.samples
        return {
            name: Figure(ours.named[name].value - theirs.named[name].value, interval(samples[:, i]))
            for i, name in enumerate(CURVE_NAMES)
        }


def _literature(protocol: Protocol, policy: Played, whole: Curve) -> dict[str, float]:
    past, test = protocol.past.cost.mean(axis=0), protocol.test
    cheapest = int(past.argmin())

    def constant(column: int) -> tuple[float, float]:
        return float(test.cost[:, column].mean()), float(test.quality[:, column].mean())

    apgr, shares = published.gap_recovered(whole, constant(cheapest), constant(protocol.single))
    return {
        "aiq": published.aiq(whole, float(test.cost.mean(axis=0).max())),
        "apgr": apgr,
        **{f"cpt{percent}": share for percent, share in shares.items()},
        "routerarena": published.best_arena_score(policy),
        "routing_accuracy": published.best_routing_accuracy(policy, test.quality),
    }


def _calibrated(protocol: Protocol, estimated: FloatArray | None, resamples: int) -> dict[str, Figure]:
    measures = {"auc": calibration.auc, "brier": calibration.brier, "ece": calibration.ece}
    if estimated is None:
        return {name: Figure(float("nan"), None) for name in measures}
    quality = protocol.test.quality
    all_once = np.ones((1, len(quality)))
    found = {}
    for name, read in measures.items():
        values = [read(estimated, quality, w) for w in draws(len(quality), resamples, protocol.seed)]
        found[name] = Figure(float(read(estimated, quality, all_once)[0]), interval(np.concatenate(values)))
    return found
