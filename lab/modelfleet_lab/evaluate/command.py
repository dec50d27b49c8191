"""`modelfleet evaluate`: what routing gains on recorded outcomes, against baselines, with intervals.

In: the command line. Out: tables, figures as JSON, the report's page. Next: `protocol` splits, `policies`
plays.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from modelfleet_lab.command_line import Parsers, positive, writable

RESAMPLES = 1000
ORDERS = ("random", "easy-to-hard", "cost")
EXAMPLES = """examples:
  modelfleet evaluate --data DIR
  modelfleet evaluate --data DIR --seed 1 -o out/report.html --json out/evaluate.json
  modelfleet evaluate --data DIR --leave-one-task-out
  modelfleet evaluate --data DIR --capacity 1.5 3 --order random easy-to-hard cost

DIR has queries.parquet (query_id, prompt, and where known task and input_tokens), outcomes.parquet (query_id,
model, quality in [0, 1], and where known cost_usd and output_tokens) and models.csv (model, and where known
usd_per_mtok_in and usd_per_mtok_out). What the figures mean: docs/evaluation.md.
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="what routing gains on recorded outcomes, against baselines, with intervals",
        description="Trains the estimator on a part of recorded outcomes and measures routing on the rest.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="recorded outcomes")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split and of all draws")
    parser.add_argument(
        "--leave-one-task-out",
        action="store_true",
        help="also train without each task in turn and choose for it, without a price",
    )
    parser.add_argument(
        "--capacity",
        type=positive,
        nargs="+",
        metavar="T",
        help="also compare methods where the three favourites have 1/T of the slots they are asked for; with "
        "less and less money there, at the first T; and allocations of few GPUs (minutes)",
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        nargs="+",
        metavar="|".join(ORDERS),
        help="also play the test in this order, in batches, for a tenth to all of the best single's cost",
    )
    parser.add_argument(
        "--learning",
        action="store_true",
        help="also replay what some answers' scores teach an estimator that knows half the tasks (minutes)",
    )
    parser.add_argument(
        "--resamples", type=_count, default=RESAMPLES, metavar="N", help="of the bootstrap (default 1000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the report, an HTML page")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Evaluate and show; raise ValueError and OSError for data that can not be used."""
    # Heavy, and every other command would wait for them.
    from modelfleet_lab.evaluate import allocation, capacity, learning, leave_out, order, pressure, tables
    from modelfleet_lab.evaluate.policies import Study, evaluate
    from modelfleet_lab.evaluate.protocol import split
    from modelfleet_lab.evaluate.result import document
    from modelfleet_lab.outcomes import read

    began = time.monotonic()
    for path in (options.json, options.output):
        if path is not None:
            writable(path)
    protocol = split(read(options.data), options.seed)
    if options.leave_one_task_out:
        leave_out.tasks_to_leave_out(protocol)  # Refused now, not after minutes.
    if options.learning:
        learning.check(protocol.data)
    console.print(tables.best_single(protocol), highlight=False, markup=False)
    if not console.is_terminal:
        console.print("training and playing; it takes a minute or more")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def tell(what: str) -> None:
            progress.update(task, description=what)

        study = Study(protocol, tell)
        tell("bootstraps for the robust method")
        split_told = study.split()
        found = evaluate(study, split_told, resamples=options.resamples, tell=tell)
        shown = [tables.policies(protocol, found), tables.differences(found)]
        sections = {}
        if options.leave_one_task_out:
            left_out = leave_out.run(protocol, resamples=options.resamples, tell=tell)
            sections["loto"] = left_out.json()
            shown.append(tables.left_out(left_out))
        if options.capacity:
            tight = capacity.run(split_told, seed=options.seed, tightness=options.capacity, progress=tell)
            sections["capacity"] = tight.json()
            shown += [tables.tight(one, tight.share) for one in tight.found]
            shown += [tables.tight(one, tight.share, fewest=True) for one in tight.fewest]
            pressed = pressure.run(
                split_told, seed=options.seed, tightness=options.capacity[0], progress=tell
            )
            sections["pressure"] = pressed.json()
            shown += [tables.pressed(pressed.tightness, *one) for one in pressed.found]
            allocated = allocation.run(split_told, seed=options.seed, progress=tell)
            sections["allocation"] = allocated.json()
            shown += [tables.allocated(*one) for one in allocated.found]
        if options.order:
            orders = order.run(split_told, seed=options.seed, orders=options.order, progress=tell)
            sections["order"] = orders.json()
            shown += [tables.ordered(name, one) for name, one in orders.found.items()]
        if options.learning:
            replayed = learning.run(protocol.data, seed=options.seed, progress=tell)
            sections["learning"] = replayed.json()
            shown.append(tables.replayed(replayed))
    for table in shown:
        console.print(table)
    figures = document(
        protocol,
        found,
        folder=options.data,
        command=options.typed,
        resamples=options.resamples,
        seconds=time.monotonic() - began,
        sections=sections,
    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if options.output is not None:
        from modelfleet_lab.report.page import render

        options.output.write_text(render([figures]), encoding="utf-8")
    for path in (options.json, options.output):
        if path is not None:
            console.print(f"written to {path}", highlight=False, markup=False)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 20 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 20 to 100000")
    return int(text)
