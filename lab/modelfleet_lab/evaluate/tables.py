"""Tables of the evaluation on the terminal.

In: `Figures` by policy. Out: a table. Next: `command` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from modelfleet_lab.evaluate.figures import Figure, Figures
from modelfleet_lab.evaluate.protocol import Protocol

COLUMNS = ("k95", "k98", "k100", "r25", "r37", "r50", "r100", "auc", "brier", "ece")


def policies_table(protocol: Protocol, found: Mapping[str, Figures]) -> Table:
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


def single_line(protocol: Protocol) -> str:
    """Return who is to beat."""
    return (
        f"best single model of the past: {protocol.data.models[protocol.single]}, on the test quality "
        f"{protocol.single_quality:.4f} at {1000 * protocol.single_cost:.4f} USD per 1000 queries"
    )


def _cell(figure: Figure) -> str:
    return f"{figure.value:.3f}" if np.isfinite(figure.value) else "-"
