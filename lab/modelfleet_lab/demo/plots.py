"""The report's plots, as PNGs.

In: scores, the servers' records and samples of the fleet. Out: PNG bytes. Next: `report` inlines them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from modelfleet_lab.demo.evidence import NANO, Run, Score
from modelfleet_lab.demo.reference import Mix, best_mixes
from modelfleet_lab.demo.sampling import FleetSample
from modelfleet_lab.demo.scenario import Scenario

matplotlib.use("Agg")
COLOURS = ("#0b6e4f", "#c8553d", "#2d7dd2", "#f2a03b", "#6d597a")
GREY = "#8a9896"


def quality_and_cost(scores: Sequence[Score], budget: float, constants: Sequence[Mix]) -> bytes:
    """Return the scatter of quality over cost, a point for each policy, over the line of random mixes."""
    figure, axes = _figure(4.4)
    right = 1.1 * max(budget, *(score.cost_usd for score in scores))
    corners = best_mixes(constants)
    line = [*((mix.cost_usd, mix.quality) for mix in corners), (max(right, corners[-1].cost_usd), 0.0)]
    line[-1] = (line[-1][0], corners[-1].quality)
    axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1.3, label="random mix, slots unlimited")
    for mix in constants:
        if mix.cost_usd <= right:
            axes.plot(mix.cost_usd, mix.quality, "x", color=GREY, markersize=6)
            axes.annotate(
                f"{mix.model} alone",
                (mix.cost_usd, mix.quality),
                textcoords="offset points",
                xytext=(6, -11),
                fontsize=8,
                color="#5b6b69",
            )
    for score, colour in zip(scores, COLOURS, strict=True):
        axes.scatter(score.cost_usd, score.quality, s=90, color=colour, label=score.policy, zorder=3)
    axes.axvline(budget, color="#444444", linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel("billed by the servers (USD)")
    axes.set_ylabel("right answers (% of all requests)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes.set_xlim(0, right)
    qualities = [score.quality for score in scores]
    axes.set_ylim(max(0.0, min(qualities) - 0.1), min(1.0, max(*qualities, *(y for _, y in line)) + 0.04))
    _legend(axes)
    return _png(figure)


def spend_over_time(runs: Sequence[Run], budget: float) -> bytes:
    """Return what the servers had billed by each moment, a line for each policy."""
    figure, axes = _figure(3.4)
    for run, colour in zip(runs, COLOURS, strict=True):
        times, total, spent = [0.0], [0.0], 0
        for record in run.records:
            spent += record.cost_nano_usd
            times.append(record.end - run.started)
            total.append(spent / NANO)
        axes.step(times, total, where="post", color=colour, label=run.policy, linewidth=1.6)
    axes.axhline(budget, color="#444444", linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel("seconds since the first request")
    axes.set_ylabel("billed so far (USD)")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _png(figure)


def in_flight_over_time(run: Run, samples: Sequence[FleetSample], scenario: Scenario) -> bytes:
    """Return, a row for each model, the requests in flight by its servers' logs and the slots there were."""
    figure = Figure(figsize=(8, 1.25 * len(scenario.models) + 0.6), layout="constrained")
    rows = figure.subplots(len(scenario.models), 1, sharex=True, squeeze=False)[:, 0]
    for model, axes, colour in zip(scenario.models, rows, COLOURS, strict=False):
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
        axes.fill_between(times, levels, step="post", color=colour, alpha=0.75, linewidth=0)
        slots = [
            (s.at - run.started, s.variants[model.name].slots) for s in samples if model.name in s.variants
        ]
        axes.step(
            [at for at, _ in slots],
            [n for _, n in slots],
            where="post",
            color="#444444",
            linestyle="--",
            linewidth=1,
        )
        _tidy(axes)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.set_title(model.name, fontsize=9, loc="left")
        axes.set_ylim(0, max([4, *levels, *(n for _, n in slots)]) * 1.1)
    rows[-1].set_xlabel("seconds since the first request")
    figure.supylabel("requests in flight; dashed: slots of ready replicas", fontsize=9)
    return _png(figure)


def gpus_over_time(samples: Sequence[FleetSample], run: Run, scenario: Scenario) -> bytes:
    """Return the GPUs under ready replicas, stacked by model, as the operator counted them."""
    figure, axes = _figure(2.8)
    pooled = [model for model in scenario.models if not model.external]
    times = [sample.at - run.started for sample in samples]
    gpus = [
        [
            model.gpus * sample.variants[model.name].ready if model.name in sample.variants else 0
            for sample in samples
        ]
        for model in pooled
    ]
    labels = [f"{model.name} ({model.gpus} each)" for model in pooled]
    axes.stackplot(times, gpus, labels=labels, colors=COLOURS, step="post", alpha=0.8)
    axes.axhline(scenario.gpus, color="#444444", linestyle="--", linewidth=1, label="all GPUs")
    axes.set_xlabel("seconds since the first request")
    axes.set_ylabel("GPUs in use")
    axes.set_ylim(0, scenario.gpus + 0.6)
    _legend(axes)
    return _png(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    _tidy(axes)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    """Put the legend below the plot, where it covers nothing."""
    axes.figure.legend(
        *axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3, frameon=False
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
