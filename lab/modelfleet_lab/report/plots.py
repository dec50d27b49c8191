"""The page's plots.

In: `Findings`. Out: SVG text. Next: `page`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from modelfleet_lab.report.drawing import GRID, INK, OTHERS, OURS, SOFT, legend, panels, style
from modelfleet_lab.report.findings import Findings, Learning, LeftOut, Line, Ordered, Pressure
from modelfleet_lab.report.names import BY_ESTIMATES, HULL, ORACLE, WITH_BUDGET, words
from modelfleet_lab.report.names import OURS as OUR_POLICY

LEAST_SHARE, MOST_SHARE = 0.01, 1.2
"""Of the best single model's cost: the ends of the axis."""
_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LEFT_OF_MAIN = 0.04
"""Curves below this share of cost do not decide how far the plot goes down."""
_FAR = 30.0
"""Points; differences beyond are written, or the others could not be told apart."""


def quality_and_cost(found: Findings) -> Figure:
    """Return two plots: policies that differ in their estimates, and those that are told a budget."""
    with style():
        figure, rows = panels(8.2, rows=2)
        for axes, names, title in (
            (rows[0], BY_ESTIMATES, "a price per query, by different estimates"),
            (rows[1], WITH_BUDGET, "modelfleet's estimates, used by different methods"),
        ):
            _constants(axes, found)
            for name, colour in _coloured(name for name in names if name in found.curves):
                curve = found.curves[name]
                width, above = (2.4, 4) if name == OUR_POLICY else (1.4, 3)
                label = words(name)
                axes.plot(curve.cost, curve.quality, color=colour, linewidth=width, zorder=above, label=label)
                if name == OUR_POLICY:
                    axes.fill_between(
                        curve.cost, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0
                    )
            axes.set_title(title, fontsize=9.5, loc="left")
            axes.set_ylim(*_reach(found))
            axes.set_ylabel("quality, relative to the best single model")
            axes.yaxis.set_major_formatter(_percent)
            _cost_axis(axes)
            legend(axes)
    return figure


def reliability(found: Findings) -> Figure:
    """Return observed quality over estimated quality, in bins of equal mass."""
    with style():
        figure, (axes,) = panels(4.2)
        axes.plot(
            [0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1, label="estimates that mean what they say"
        )
        names = [name for name in BY_ESTIMATES if name in found.reliability]
        for name, colour in _coloured(iter(names)):
            bins = found.reliability[name]
            ece = found.policies[name]["ece"].value
            axes.plot(
                bins.predicted, bins.observed, "o-", color=colour, markersize=4.5, linewidth=1.2,
                zorder=4 if name == OUR_POLICY else 3, label=f"{words(name)}: ECE {ece:.3f}",
            )  # fmt: skip
        axes.set_xlabel("estimated quality, mean of each bin")
        axes.set_ylabel("recorded quality")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        legend(axes)
    return figure


def differences(found: Mapping[str, Sequence[Line]], ours: str) -> Figure:
    """Return a plot for each entry: `ours` minus each other line, in points, with its interval."""
    with style():
        most = max(len(lines) for lines in found.values())
        figure, columns = panels(0.9 + 0.3 * most, len(found))
        for axes, (title, lines) in zip(columns, found.items(), strict=True):
            others = lines[1:]
            for k, line in enumerate(others):
                behind = line.behind
                colour = OURS if behind.low > 0 else OTHERS[0] if behind.high < 0 else SOFT
                if abs(behind.value) <= _FAR:
                    _whisker(axes, k, behind.value, behind.low, behind.high, colour)
                else:
                    _far(axes, k, behind.value, colour)
            axes.axvline(0, color=INK, linewidth=1)
            _rows(axes, [words(line.name) for line in others])
            axes.set_title(title, fontsize=9.5, loc="left")
            # Under three plots beside each other the whole sentence would run into its neighbours.
            axes.set_xlabel(f"points that {ours} is ahead" if len(found) < 3 else "points ahead")
    return figure


def orders(section: Mapping[str, Sequence[Ordered]]) -> Figure:
    """Return what 98 % of the best single model's quality costs, by method and order."""
    with style():
        most = max(len(methods) for methods in section.values())
        figure, columns = panels(0.9 + 0.3 * most, len(section))
        for axes, (order, methods) in zip(columns, section.items(), strict=True):
            for k, method in enumerate(methods):
                if method.k98.known:
                    colour = OURS if k == 0 else SOFT
                    _whisker(axes, k, method.k98.value, method.k98.low, method.k98.high, colour)
                else:
                    axes.text(0.02, k, "not reached", va="center", fontsize=8.5, color=SOFT)
            _rows(axes, [words(method.name) for method in methods])
            axes.set_xlim(0, 1.15)
            axes.set_xticks((0.0, 0.5, 1.0))
            axes.set_title(order, fontsize=9.5, loc="left")
            axes.set_xlabel("cost of 98 % of the quality")
            axes.xaxis.set_major_formatter(_percent)
    return figure


def pressure(section: Pressure) -> Figure:
    """Return quality over the budget, a line for each method."""
    with style():
        figure, (axes,) = panels(4.0)
        names = [line.name for line in section.budgets[0][1]]
        for k, name in enumerate(names):
            points = [
                (line.cost, line.quality)
                for _, lines in section.budgets
                for line in lines
                if line.name == name
            ]
            colour, width = (OURS, 2.4) if k == 0 else (OTHERS[(k - 1) % len(OTHERS)], 1.4)
            axes.plot(
                *zip(*points, strict=True),
                "o-",
                color=colour,
                linewidth=width,
                markersize=4,
                label=words(name),
            )
        axes.set_xlabel("cost, share of the best single model's")
        axes.set_ylabel("quality, relative to the best single model")
        axes.xaxis.set_major_formatter(_percent)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlim(left=0)
        legend(axes)
    return figure


def unseen(section: LeftOut) -> Figure:
    """Return the gain on each task that was left out of training."""
    with style():
        tasks = sorted(section.tasks, key=lambda task: -task.gain.value)
        figure, (axes,) = panels(0.9 + 0.3 * len(tasks))
        for k, task in enumerate(tasks):
            gain = task.gain
            _whisker(axes, k, 100 * gain.value, 100 * gain.low, 100 * gain.high, OURS)
        axes.axvline(0, color=INK, linewidth=1)
        axes.axvline(100 * section.mean, color=OURS, linestyle="--", linewidth=1.2, label="mean over tasks")
        _rows(axes, [f"{task.name} ({task.queries})" for task in tasks])
        axes.set_xlabel("points of quality above the best single model of the other tasks")
        legend(axes)
    return figure


def learning(section: Learning) -> Figure:
    """Return quality over the requests so far, between that without learning and that of training anew."""
    with style():
        figure, (axes,) = panels(3.6)
        middle, spread = np.array(section.learned), np.array(section.spread)
        axes.axhline(
            section.offline, color=SOFT, linestyle="--", linewidth=1.2, label="trained on everything"
        )
        axes.plot(
            section.requests, middle, "o-", color=OURS, markersize=4, linewidth=2, label="learned so far"
        )
        axes.fill_between(
            section.requests, middle - spread, middle + spread, color=OURS, alpha=0.18, linewidth=0
        )
        axes.axhline(section.stale, color=OTHERS[0], linestyle=":", linewidth=1.6, label="without learning")
        axes.set_xlabel("requests so far")
        axes.set_ylabel("quality on the test")
        axes.set_xlim(left=0)
        legend(axes)
    return figure


def _constants(axes: Axes, found: Findings) -> None:
    """Draw each model alone, their random mixes, and the oracle's height."""
    inside = [
        (cost, quality)
        for cost, quality in found.constants.values()
        if LEAST_SHARE <= cost <= MOST_SHARE and quality >= _reach(found)[0]
    ]
    axes.plot(
        *zip(*inside, strict=True), "x", color=SOFT, markersize=5, linestyle="none", label="one model alone"
    )
    if HULL in found.curves:
        hull = found.curves[HULL]
        axes.plot(hull.cost, hull.quality, color=SOFT, linewidth=1.2, linestyle="--", label=words(HULL))
    axes.axhline(1.0, color=GRID, linewidth=1.6, zorder=0)


def _reach(found: Findings) -> tuple[float, float]:
    """Return the ends of the axis of quality."""
    shown = [name for name in (*BY_ESTIMATES, *WITH_BUDGET, HULL) if name in found.curves and name != ORACLE]
    values = [
        quality
        for name in shown
        for cost, quality in zip(found.curves[name].cost, found.curves[name].quality, strict=True)
        if cost >= _LEFT_OF_MAIN and math.isfinite(quality)
    ]
    return max(0.0, float(np.quantile(values, 0.04)) - 0.03), max(values) + 0.02


def _percent(value: float, _: float) -> str:
    return f"{round(100 * value, 1):g} %"


def _cost_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xlim(LEAST_SHARE, MOST_SHARE)
    axes.set_xticks(_SHARES, [f"{100 * share:g} %" for share in _SHARES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("cost, share of the best single model's")


def _whisker(axes: Axes, row: int, value: float, low: float, high: float, colour: str) -> None:
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot([value], [row], "o", color=colour, markersize=6)


def _far(axes: Axes, row: int, value: float, colour: str) -> None:
    """Write a value that is beyond the plot."""
    text, end, side = (f"{value:+.0f} →", 0.99, "right") if value > 0 else (f"← {value:+.0f}", 0.01, "left")
    across = axes.get_yaxis_transform()
    axes.text(end, row, text, transform=across, color=colour, va="center", ha=side, fontsize=8.5)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _coloured(names: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield each name with its colour, ours first of all."""
    others = iter(OTHERS)
    for name in names:
        yield name, OURS if name == OUR_POLICY else next(others)
