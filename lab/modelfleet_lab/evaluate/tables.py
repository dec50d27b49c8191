"""Tables of the evaluation on the terminal.

In: `Figures` by policy. Out: a table. Next: `command` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from modelfleet_lab.evaluate.allocation import Allocated
from modelfleet_lab.evaluate.capacity import Tight
from modelfleet_lab.evaluate.figures import Figure, Figures, versus
from modelfleet_lab.evaluate.frontier import Frontier
from modelfleet_lab.evaluate.learning import Learning
from modelfleet_lab.evaluate.leave_out import LeftOut
from modelfleet_lab.evaluate.protocol import Protocol
from modelfleet_lab.evaluate.referee import Line

OURS = "default"
DECISIVE = ("r25", "r37", "r50")
"""What differences are told of."""
COLUMNS = ("k95", "k98", "k100", "r25", "r37", "r50", "r100", "auc", "brier", "ece")


def policies(protocol: Protocol, found: Mapping[str, Figures]) -> Table:
    """Return a row for each policy."""
    test, data = protocol.test, protocol.data
    table = Table(
        title=f"{protocol.past.size} past and {test.size} test queries, {len(data.models)} models, "
        f"seed {protocol.seed}",
        caption="k: share of the best single model's cost for so many percent of its quality.\n"
        "r: quality, relative to its own, at that percent of its cost.",
    )
    table.add_column("policy", no_wrap=True)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in found.items():
        table.add_row(name, *(_cell(figures.named[column]) for column in COLUMNS))
    return table


def differences(found: Mapping[str, Figures]) -> Table:
    """Return a row for each policy that is neither ours nor knows the outcomes: by how much ours is ahead."""
    table = Table(
        title=f"{OURS} minus each policy, in points of relative quality",
        caption="In brackets the 95 % interval. Where it holds 0, nothing is shown.",
    )
    table.add_column("policy", no_wrap=True)
    for name in DECISIVE:
        table.add_column(name, justify="right", no_wrap=True)
    for name, theirs in found.items():
        if name != "oracle" and not name.startswith(OURS):
            ahead = versus(found[OURS], theirs)
            table.add_row(name, *(_points(ahead[column]) for column in DECISIVE))
    return table


def best_single(protocol: Protocol) -> str:
    """Return who is to beat."""
    return (
        f"best single model of the past: {protocol.data.models[protocol.single]}, on the test quality "
        f"{protocol.single_quality:.4f} at {1000 * protocol.single_cost:.4f} USD per 1000 queries"
    )


def left_out(found: LeftOut) -> Table:
    """Return a row for each task that was left out of training."""
    table = Table(
        title="One task left out of training; choices without a price",
        caption=f"ours minus the best single model of the other tasks: mean {found.mean:+.4f}, "
        f"worst {found.worst:+.4f}",
    )
    for column in ("task", "queries", "ours", "best single", "ours minus it", "95 % interval", "cost"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task in found.tasks:
        low, high = task.gain_ci or (np.nan, np.nan)
        table.add_row(
            task.name,
            str(task.queries),
            f"{task.ours:.4f}",
            f"{task.single:.4f}",
            f"{task.gain:+.4f}",
            f"{low:+.4f} .. {high:+.4f}",
            f"{task.cost_share:.2f}",
        )
    return table


def tight(found: Tight, share: float, *, fewest: bool = False) -> Table:
    """Return a row for each method with scarce slots; `fewest`: with as few as hold a batch at all."""
    slots = "fewest slots, " if fewest else ""
    return _lines(f"{slots}T = {found.tightness:g}, {share:g} of the best single model's cost", found.lines)


def pressed(tightness: float, share: float, found: Sequence[Line]) -> Table:
    """Return a row for each method with scarce slots and one budget."""
    return _lines(f"money pressed: T = {tightness:g}, {share:g} of the best single model's cost", found)


def allocated(gpus: int, found: Sequence[Allocated]) -> Table:
    """Return a row for each rule of allocation."""
    return _lines(f"{gpus} GPUs allocated by different rules", [one.line for one in found])


def _lines(title: str, found: Sequence[Line]) -> Table:
    caption = "quality and cost: shares of the best single model's; points are hundredths of its quality"
    table = Table(title=title, caption=caption)
    for column in ("method", "quality", "ours minus it", "95 % interval", "cost", "unserved"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for line in found:
        table.add_row(
            line.name,
            f"{line.quality:.4f}",
            f"{line.behind:+.2f}",
            f"{line.behind_ci[0]:+.2f} .. {line.behind_ci[1]:+.2f}",
            f"{line.cost:.3f}",
            f"{line.unserved:.2%}",
        )
    return table


def ordered(name: str, found: Sequence[Frontier]) -> Table:
    """Return a row for each method in one order of the test."""
    table = Table(title=f"order {name}, in batches", caption="k and r as above, over the budgets told")
    table.add_column("method", no_wrap=True)
    columns = tuple(found[0].figures)
    for column in columns:
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(one.name, *(_cell(one.figures[column]) for column in columns))
    return table


def replayed(found: Learning) -> Table:
    """Return a row for each stale prior from which learning was replayed."""
    table = Table(
        title=f"Learning from {found.feedback:.0%} of {found.requests} answers",
        caption=f"recovered: of offline minus stale, with {found.exploration:.0%} explored, or greedily;\n"
        "95 % intervals are over seeds. worst: of a seed's learned minus stale.",
    )
    for column in ("prior of", "stale", "learned", "offline", "recovered", "greedily", "worst seed"):
        table.add_column(column, justify="right")
    for kind, recovery in found.found.items():
        shares = [recovery.recovered(), recovery.recovered(greedily=True)]
        stale, learned, offline, worst = recovery.qualities()
        table.add_row(
            kind.value,
            *(f"{quality:.4f}" for quality in (stale, learned, offline)),
            *(f"{share:.0%} ({low:.0%} .. {high:.0%})" for share, low, high in shares),
            f"{worst:+.4f}",
        )
    return table


def _points(figure: Figure) -> str:
    if not np.isfinite(figure.value):
        return "-"
    low, high = figure.interval or (np.nan, np.nan)
    return f"{100 * figure.value:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})"


def _cell(figure: Figure) -> str:
    return f"{figure.value:.3f}" if np.isfinite(figure.value) else "-"
