"""`modelfleet report`: one page of evaluations.

In: files of `modelfleet evaluate --json`, or folders of outcomes that it evaluates. Out: an HTML
file that needs nothing else. Next: a sceptic.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import Parsers, writable
from modelfleet_lab.evaluate import command as evaluate

MOST_BYTES = 64 << 20
SECTIONS = ("--capacity", "1.5", "3", "--order", "random", "easy-to-hard", "cost")
"""What is evaluated of every folder."""
SEVERAL = ("--leave-one-task-out", "--learning")
"""What is evaluated too where there are several tasks."""
EXAMPLES = """examples:
  modelfleet report --data DIR -o out/report.html
  modelfleet report --data DIR OTHER --seeds 0 1 2
  modelfleet evaluate --data DIR --json out/one.json
  modelfleet report --json out/one.json out/two.json -o out/report.html

With --data every folder is evaluated in full by every seed, which takes minutes each; the figures are written
beside the page as NAME-SEED.json.
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    report = commands.add_parser(
        "report",
        help="one page of evaluations: what is better, what is not, and by which command",
        description="Writes one HTML page of evaluations on recorded outcomes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = report.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, nargs="+", metavar="DIR", help="recorded outcomes to evaluate first"
    )
    source.add_argument(
        "--json", type=Path, nargs="+", metavar="FILE", help="figures that `modelfleet evaluate --json` wrote"
    )
    report.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        metavar="S",
        help="with --data: of the splits (default 0)",
    )
    report.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page (default %(default)s)",
    )
    report.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Write the page; raise ValueError and OSError for data or files that can not be used."""
    from modelfleet_lab.report.page import render  # Heavy, and needed for this command alone.

    writable(options.output)
    paths = options.json if options.data is None else _evaluated(options, console)
    page = render([_read(path) for path in paths], [str(path) for path in paths])
    options.output.write_text(page, encoding="utf-8")
    console.print(f"written to {options.output}", highlight=False, markup=False)
    return 0


def _evaluated(options: argparse.Namespace, console: Console) -> list[Path]:
    """Evaluate every folder by every seed, by the command that the page then shows; return the figures."""
    from modelfleet_lab.outcomes import read

    names = [folder.resolve().name for folder in options.data]
    if len(set(names)) < len(names):
        raise ValueError("two folders of --data have the same name; their figures would be one file")
    parser = argparse.ArgumentParser(prog="modelfleet")
    evaluate.add(parser.add_subparsers())
    paths = []
    for folder, name in zip(options.data, names, strict=True):
        several = SEVERAL if len(set(read(folder).tasks)) > 1 else ()
        for seed in options.seeds:
            path = options.output.parent / f"{name}-{seed}.json"
            words = ["evaluate", "--data", str(folder), "--seed", str(seed), *several, *SECTIONS]
            chosen = parser.parse_args([*words, "--json", str(path)])
            chosen.typed = shlex.join(["modelfleet", *words, "--json", str(path)])
            console.print(chosen.typed, highlight=False, markup=False, soft_wrap=True)
            chosen.run(chosen, console)
            paths.append(path)
    return paths


def _read(path: Path) -> object:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes; figures of an evaluation are not")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
