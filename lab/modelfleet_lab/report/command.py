"""`modelfleet report`: one page of evaluations.

In: files of `modelfleet evaluate --json`. Out: an HTML file that needs nothing else. Next: a sceptic.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import Parsers, writable

MOST_BYTES = 64 << 20
EXAMPLES = """examples:
  modelfleet evaluate --data DIR --json out/one.json
  modelfleet evaluate --data DIR --seed 1 --json out/two.json
  modelfleet report --json out/one.json out/two.json -o out/report.html
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    report = commands.add_parser(
        "report",
        help="one page of evaluations: what is better, what is not, and by which command",
        description="Writes one HTML page of the figures that `modelfleet evaluate --json` wrote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "--json", type=Path, nargs="+", required=True, metavar="FILE", help="figures of evaluations, in order"
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
    """Write the page; raise ValueError and OSError for files that can not be used."""
    from modelfleet_lab.report.page import render  # Heavy, and needed for this command alone.

    writable(options.output)
    documents = [_read(path) for path in options.json]
    page = render(documents, [str(path) for path in options.json])
    options.output.write_text(page, encoding="utf-8")
    console.print(f"written to {options.output}", highlight=False, markup=False)
    return 0


def _read(path: Path) -> object:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes; figures of an evaluation are not")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
