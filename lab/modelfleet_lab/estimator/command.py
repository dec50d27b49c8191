"""`modelfleet estimator inspect`: what an estimator knows, and what it would say of a text.

In: the command line. Out: tables, and figures as JSON. Next: the user, before the file goes into a ConfigMap.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import Parsers, writable

EXAMPLES = """examples:
  modelfleet estimator inspect estimator.npz
  modelfleet estimator inspect estimator.npz --task gsm8k
  modelfleet estimator inspect estimator.npz --text "Prove that there are infinitely many primes."
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    estimator = commands.add_parser(
        "estimator", help="look into the file that `train` wrote", description="Looks into estimators."
    )
    actions = estimator.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="what an estimator knows",
        description="Shows which models and tasks an estimator knows, how well, and what it would estimate.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("file", type=Path, metavar="FILE", help="estimator.npz")
    inspect.add_argument("--text", metavar="TEXT", help="show the estimates for this text")
    inspect.add_argument(
        "--task", metavar="NAME", help="show all models in this task; with --text: the text is of this task"
    )
    inspect.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    inspect.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Show the file; raise ValueError and OSError when it is no estimator."""
    from modelfleet_lab.estimator import contents, tables  # Heavy, and needed for this command alone.
    from modelfleet_lab.estimator.files import read

    if options.json is not None:
        writable(options.json)
    trained = read(options.file)
    size = options.file.stat().st_size
    told = contents.figures(trained, size)
    if options.task is not None:
        contents.in_task(trained, options.task)
    if options.text is not None:
        answer = contents.estimate(trained, options.text, options.task)
        told["text"] = asdict(answer)
        tables.show_answer(answer, console)
    elif options.task is not None:
        tables.show_task(trained, options.task, console)
    else:
        tables.show(trained, size, console)
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        console.print(f"written to {options.json}", highlight=False)
    return 0
