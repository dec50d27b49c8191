"""`python -m modelfleet_lab.methods --data DIR`: a table of all methods on recorded outcomes.

In: arguments. Out: a table on standard output, progress on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from modelfleet_lab.command_line import positive
from modelfleet_lab.methods.comparison import BATCH, FAVOURITES, Line, Scene, compare, entries, make_scene
from modelfleet_lab.outcomes import read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m modelfleet_lab.methods",
        description="Plays modelfleet's assignment and the methods of the field over recorded outcomes, at "
        "equal total cost, in batches with fresh slots. docs/methods.md says what each method is.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MODELFLEET_DATA"),
        metavar="DIR",
        help="folder with queries.parquet, outcomes.parquet and models.csv, or with a folder zeroeval that "
        "has them; also MODELFLEET_DATA",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split into past and test, and of orders")
    parser.add_argument(
        "--capacity",
        type=positive,
        nargs="+",
        default=[1.5, 3.0],
        metavar="T",
        help="times that the three favourites are asked for over; a table for each",
    )
    parser.add_argument(
        "--share", type=positive, default=0.37, help="budget as a share of the best single model's cost"
    )
    parser.add_argument("--orders", type=int, default=3, help="random orders of the test to average over")
    parser.add_argument(
        "--spare", type=positive, default=1.0, help="slots of the other models per request that must go there"
    )
    parser.add_argument("--bootstraps", type=int, default=100, help="draws behind the robust mode")
    chosen = parser.parse_args(arguments)
    if chosen.data is None:
        parser.error("name the data by --data or MODELFLEET_DATA")
    folder = Path(chosen.data)
    folder = folder / "zeroeval" if (folder / "zeroeval").is_dir() else folder
    try:
        data = read(folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for tightness in chosen.capacity:
        errors = Console(stderr=True)
        if not errors.is_terminal:
            errors.print(f"T = {tightness:g}: estimates, calibration, methods; takes minutes")
        with Progress(console=errors) as progress:
            task = progress.add_task(f"estimates, T = {tightness:g}", total=None)
            scene = make_scene(
                data,
                seed=chosen.seed,
                tightness=tightness,
                share=chosen.share,
                orders=chosen.orders,
                spare=chosen.spare,
                bootstraps=chosen.bootstraps,
            )
            progress.update(task, description=f"calibration, T = {tightness:g}")
            competing = entries(scene)
            progress.update(task, description=f"methods, T = {tightness:g}", total=len(competing))
            lines = compare(scene, competing, seed=chosen.seed, done=partial(progress.advance, task))
        Console(width=110).print(_table(scene, lines, tightness, chosen.share))
    return 0


def _table(scene: Scene, lines: Sequence[Line], tightness: float, share: float) -> Table:
    busy = sorted(zip(scene.slots.tolist(), scene.models, strict=True), reverse=True)[:FAVOURITES]
    favourites = ", ".join(f"{model} {slots}" for slots, model in busy)
    name, quality, cost = scene.constant
    table = Table(
        title=f"T = {tightness:g}, batches of {BATCH}; the best single model: 1 at cost {1 / share:.2f}",
        caption=f"Most slots: {favourites}; {scene.slots.sum()} in all.\n"
        f"Best constant model within the budget, with slots for all: {name}, {quality:.4f} at {cost:.2f}.",
    )
    for column in ("method", "quality", "ours minus it", "95 % interval", "cost", "unserved"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for line in lines:
        table.add_row(
            line.name,
            f"{line.quality:.4f}",
            f"{line.behind:+.2f}",
            f"{line.interval[0]:+.2f} .. {line.interval[1]:+.2f}",
            f"{line.cost:.3f}",
            f"{line.unserved:.2%}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
