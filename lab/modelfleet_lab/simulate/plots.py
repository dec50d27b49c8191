"""The simulation's plots, as PNGs.

In: `Played`. Out: PNG bytes by name. Next: `report` writes them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modelfleet_lab.simulate.measures import worth
from modelfleet_lab.simulate.play import Game, Played
from modelfleet_lab.simulate.workload import Floats, Workload

matplotlib.use("Agg")
COLOURS = ("#0b6e4f", "#444444", "#c8553d", "#2d7dd2", "#f2a03b", "#6d597a", "#8a9896", "#a1c181")
BINS = 24


def quality_over_time(played: Played) -> bytes:
    """Return what the requests that arrived in each span of time got, against the clairvoyant's share."""
    figure, axes = _figure()
    load = played.load
    edges = np.linspace(load.arrived.min(), load.arrived.max() + 1e-9, BINS + 1)
    bound = mean_over_time(load, edges, played.bound.by_request)
    axes.plot(*bound, color="#999999", linestyle="--", label="clairvoyant bound")
    for game, colour in zip(played.games, COLOURS, strict=False):
        got = mean_over_time(load, edges, worth(load, game.run))
        axes.plot(*got, color=colour, label=game.player.name, zorder=_order(played, game))
    axes.set_title("What requests got, by when they arrived", fontsize=10, loc="left")
    axes.set_xlabel("second of arrival")
    axes.set_ylabel("weighted mean quality")
    return _png(figure, axes)


def mean_over_time(load: Workload, edges: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Return the middles of the spans in which requests arrived, and their mean value by weight."""
    weight = np.histogram(load.arrived, edges, weights=load.weight)[0]
    total = np.histogram(load.arrived, edges, weights=value)[0]
    some = weight > 0
    return ((edges[:-1] + edges[1:]) / 2)[some], total[some] / weight[some]


def waits(played: Played) -> bytes:
    """Return the part of the requests that waited longer, over seconds."""
    figure, axes = _figure()
    for game, colour in zip(played.games, COLOURS, strict=False):
        waited = np.sort((game.run.fates.started - played.load.arrived)[~np.isnan(game.run.fates.started)])
        if len(waited):
            longer = 1.0 - np.arange(len(waited)) / len(waited)
            axes.step(
                np.maximum(waited, 1e-3),
                longer,
                where="post",
                color=colour,
                label=game.player.name,
                zorder=_order(played, game),
            )
    axes.set_title("Wait until a model server was asked; below 1 ms at 1 ms", fontsize=10, loc="left")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds of wait")
    axes.set_ylabel("part that waited longer")
    return _png(figure, axes)


def slots(played: Played) -> bytes:
    """Return the first player's slots over time: live, held by leases, in flight at the servers; and what
    waits."""
    figure, axes = _figure()
    samples = played.games[0].run.fates.samples
    times = [sample.at for sample in samples]
    for label, values, colour in (
        ("live", [sample.live for sample in samples], "#444444"),
        ("held by leases", [sample.held for sample in samples], COLOURS[3]),
        ("in flight at servers", [sample.in_flight for sample in samples], COLOURS[0]),
        ("requests waiting", [sample.waiting for sample in samples], COLOURS[2]),
    ):
        axes.step(times, values, where="post", color=colour, label=label)
    axes.set_title(f"Slots of {played.games[0].player.name}", fontsize=10, loc="left")
    axes.set_xlabel("second of the run")
    axes.set_ylabel("slots; requests")
    return _png(figure, axes)


def messages(played: Played) -> bytes:
    """Return the first player's reports and grants per second over time."""
    figure, axes = _figure()
    samples = played.games[0].run.fates.samples
    times = np.array([sample.at for sample in samples])
    for label, totals, colour in (
        ("reports", [sample.reports for sample in samples], COLOURS[0]),
        ("grants", [sample.grants for sample in samples], COLOURS[3]),
    ):
        rates = np.diff(totals) / np.maximum(1e-9, np.diff(times))
        axes.step(times[1:], rates, where="pre", color=colour, label=label)
    axes.set_title(f"Messages of {played.games[0].player.name}, all sidecars", fontsize=10, loc="left")
    axes.set_xlabel("second of the run")
    axes.set_ylabel("messages per second")
    return _png(figure, axes)


def prices(played: Played) -> bytes:
    """Return the published prices of the first player's run over time."""
    figure, axes = _figure()
    samples = played.games[0].run.fates.samples
    times = [sample.at for sample in samples]
    for j, (model, colour) in enumerate(zip(played.scenario.models, COLOURS, strict=False)):
        axes.step(times, [s.prices[j] for s in samples], where="post", color=colour, label=model.name)
    axes.set_title(f"Prices of slots that {played.games[0].player.name} published", fontsize=10, loc="left")
    axes.set_xlabel("second of the run")
    axes.set_ylabel("quality per slot-second")
    return _png(figure, axes)


PLOTS: Mapping[str, Callable[[Played], bytes]] = {
    "quality": quality_over_time,
    "waits": waits,
    "slots": slots,
    "messages": messages,
    "prices": prices,
}


def _order(played: Played, game: Game) -> float:
    """Return how far in front a player's line is drawn: the first is hidden by none."""
    return 3.0 - played.games.index(game) / len(played.games)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure, axes: Axes) -> bytes:
    figure.legend(
        *axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4, frameon=False
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
