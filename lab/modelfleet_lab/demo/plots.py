"""The report's plots, as PNGs.

In: scores and the servers' records. Out: PNG bytes. Next: `report` inlines them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modelfleet_lab.demo.evidence import NANO, Run, Score
from modelfleet_lab.demo.sampling import FleetSample
from modelfleet_lab.demo.scenario import Scenario

matplotlib.use("Agg")
COLOURS = ("#0b6e4f", "#c8553d", "#588b8b", "#f28f3b", "#6d597a")


def quality_and_cost(scores: Sequence[Score], budget: float) -> bytes:
    """Return the scatter of quality over cost, a point for each policy."""
    figure, axes = _figure(4.2)
    for score, colour in zip(scores, COLOURS, strict=True):
        axes.scatter(score.cost_usd, score.quality, s=90, color=colour, label=score.policy, zorder=3)
    axes.axvline(budget, color="#999999", linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel("billed by the servers (USD)")
    axes.set_ylabel("right answers / all requests")
    axes.set_xlim(left=0)
    axes.legend(fontsize=8, loc="best")
    return _png(figure)


def spend_over_time(runs: Sequence[Run], budget: float) -> bytes:
    """Return what the servers had billed by each moment, a line for each policy."""
    figure, axes = _figure(3.2)
    for run, colour in zip(runs, COLOURS, strict=True):
        times, total, spent = [0.0], [0.0], 0
        for record in run.records:
            spent += record.cost_nano_usd
            times.append(record.end - run.started)
            total.append(spent / NANO)
        axes.step(times, total, where="post", color=colour, label=run.policy, linewidth=1.4)
    axes.axhline(budget, color="#999999", linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel("seconds")
    axes.set_ylabel("billed (USD)")
    axes.legend(fontsize=8)
    return _png(figure)


def in_flight_over_time(run: Run, scenario: Scenario) -> bytes:
    """Return the requests in flight at the servers of each model, by their logs."""
    figure, axes = _figure(3.2)
    for model, colour in zip(scenario.models, COLOURS, strict=False):
        changes = sorted(
            change
            for record in run.records
            if record.model == model.name
            for change in ((record.start - run.started, 1), (record.end - run.started, -1))
        )
        times, level, levels = [0.0], 0, [0]
        for at, step in changes:
            level += step
            times.append(at)
            levels.append(level)
        axes.step(times, levels, where="post", color=colour, label=model.name, linewidth=1.1)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests in flight")
    axes.legend(fontsize=8)
    return _png(figure)


def replicas_over_time(samples: Sequence[FleetSample], run: Run, scenario: Scenario) -> bytes:
    """Return the ready replicas of each model in the cluster, as the operator counted them."""
    figure, axes = _figure(2.8)
    for model, colour in zip(scenario.models, COLOURS, strict=False):
        if model.external:
            continue
        points = [
            (s.at - run.started, s.variants[model.name].ready) for s in samples if model.name in s.variants
        ]
        axes.step(
            [at for at, _ in points], [n for _, n in points], where="post", color=colour, label=model.name
        )
    axes.set_xlabel("seconds")
    axes.set_ylabel("ready replicas")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return _png(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
