"""Shows what an estimator knows as tables.

In: `Trained`. Out: tables on the console. Next: the user.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfleet_core.estimation.trained import Trained
from rich.console import Console
from rich.table import Table

from modelfleet_lab.estimator.contents import Answer, Known, in_task, over_all, typical_tokens

_LIKELY = 3
"""Tasks that are named for a text."""


def show(trained: Trained, size: int, console: Console) -> None:
    """Show the models, and the best of them by task."""
    console.print(
        f"estimator {trained.version}: {len(trained.models)} models, {len(trained.tasks)} tasks, "
        f"{trained.samples.sum():,.0f} outcomes, {size / 1000:.0f} kB; kappa {trained.kappa:g}",
        highlight=False,
    )
    table = _table("model", "outcomes", "quality", "95 % interval", "answer's tokens")
    rows = zip(over_all(trained), typical_tokens(trained), strict=True)
    for known, tokens in sorted(rows, key=lambda row: -row[0].quality):
        table.add_row(*_cells(known), "-" if tokens is None else f"{tokens:,.0f}")
    console.print(table)
    if trained.tasks:
        table = _table("task", "outcomes", "models' mean", "best model", "quality", "95 % interval")
        for task in trained.tasks:
            found = in_task(trained, task)
            best = max(found, key=lambda known: known.quality)
            table.add_row(
                task,
                f"{sum(known.samples for known in found):,}",
                f"{sum(known.quality for known in found) / len(found):.3f}",
                best.model,
                f"{best.quality:.3f}",
                f"{best.low:.3f} .. {best.high:.3f}",
            )
        console.print(table)


def show_task(trained: Trained, task: str, console: Console) -> None:
    """Show all models in one task."""
    table = _table("model", f"outcomes in {task}", "quality", "95 % interval")
    for known in sorted(in_task(trained, task), key=lambda known: -known.quality):
        table.add_row(*_cells(known))
    console.print(table)


def show_answer(answer: Answer, console: Console) -> None:
    """Show what is estimated for a text."""
    likely = ", ".join(f"{task} {share:.0%}" for task, share in answer.tasks[:_LIKELY]) or "none known"
    console.print(f"confidence {answer.confidence:.2f}; tasks: {likely}", markup=False, highlight=False)
    table = _table("model", "quality", "its deviation", "rests on outcomes", "answer's tokens")
    for found in sorted(answer.models, key=lambda found: -found.quality):
        tokens = "-" if found.output_tokens is None else f"{found.output_tokens:,.0f}"
        table.add_row(
            found.model, f"{found.quality:.3f}", f"{found.deviation:.3f}", f"{found.samples:,.0f}", tokens
        )
    console.print(table)


def _cells(known: Known) -> Sequence[str]:
    interval = f"{known.low:.3f} .. {known.high:.3f}" if known.samples else "-"
    return known.model, f"{known.samples:,}", f"{known.quality:.3f}", interval


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        names = column in ("model", "task", "best model")
        table.add_column(column, justify="left" if names else "right", no_wrap=True)
    return table
