"""`modelfleet train`: an estimator of recorded outcomes.

In: the command line. Out: `estimator.npz` and what was learned. Next: a ConfigMap (`docs/train.md`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import Parsers, writable

EXAMPLES = """examples:
  modelfleet train --data DIR -o estimator.npz
  modelfleet train --data DIR -o estimator.npz --dask tcp://scheduler:8786
  kubectl create configmap chat-estimator --from-file=estimator.npz

DIR holds queries.parquet, outcomes.parquet and models.csv, of any size and in any order; not every model must
have answered every query. docs/train.md says what is in them.
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    train = commands.add_parser(
        "train",
        help="learn from recorded outcomes which model answers what how well",
        description="Reads recorded outcomes of any amount in bounded memory and writes the estimator that "
        "sidecars route by.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("--data", type=Path, required=True, metavar="DIR", help="recorded outcomes")
    train.add_argument(
        "-o", "--output", type=Path, default=Path("estimator.npz"), metavar="FILE", help="default %(default)s"
    )
    train.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="count on the Dask cluster whose scheduler is there; needs modelfleet[dask]",
    )
    train.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="for temporary files, about as large as the data; default: the system's place for them",
    )
    train.add_argument("--json", type=Path, metavar="FILE", help="write what was learned")
    train.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Train and show; raise ValueError and OSError for data that can not be used."""
    from modelfleet_lab.estimator.contents import figures  # Heavy, like those below: only where it is needed.
    from modelfleet_lab.estimator.files import CONFIG_MAP_BYTES, write
    from modelfleet_lab.estimator.tables import show
    from modelfleet_lab.train.learning import learn

    for path in (options.output, options.json):
        if path is not None:
            writable(path)
    found = learn(options.data, dask=options.dask, scratch=options.scratch, console=console)
    size = write(options.output, found.trained)
    show(found.trained, size, console)
    if found.held_out is not None:
        held = found.held_out
        area = "-" if held.auc is None else f"{held.auc:.3f}"
        console.print(
            f"on {held.queries:,} queries of a fifth that was held out: AUC {area}, Brier score "
            f"{held.brier:.3f}, expected calibration error {held.ece:.3f}",
            highlight=False,
        )
    for model, why in found.left_out.items():
        console.print(f"left out: {model}, which models.csv flags as {why}", markup=False, highlight=False)
    rate = found.outcomes / found.seconds
    console.print(
        f"{found.outcomes:,} outcomes of {found.queries:,} queries in {found.seconds:.1f} s "
        f"({rate:,.0f} outcomes/s), peak memory {found.peak_bytes / 2**20:.0f} MiB",
        highlight=False,
    )
    if size > CONFIG_MAP_BYTES:
        console.print(
            f"note: {options.output} has {size:,} bytes, too many for a ConfigMap; train fewer models",
            highlight=False,
        )
    if options.json is not None:
        told = figures(found.trained, size) | {
            "queries": found.queries,
            "held_out": None if found.held_out is None else asdict(found.held_out),
            "outcomes": found.outcomes,
            "left_out": found.left_out,
            "seconds": found.seconds,
            "peak_bytes": found.peak_bytes,
        }
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    for path in (options.output, options.json):
        if path is not None:
            console.print(f"written to {path}", highlight=False)
    return 0
