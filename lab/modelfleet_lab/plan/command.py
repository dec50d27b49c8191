"""`modelfleet plan`: what a fleet would buy for a demand.

In: the command line. Out: tables, and figures as JSON. Next: `study` plans, `report` shows.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import Parsers, positive, writable
from modelfleet_lab.plan.demand import budget_rates, left_out, read_demand
from modelfleet_lab.plan.manifests import read_declared
from modelfleet_lab.plan.report import figures, show
from modelfleet_lab.plan.study import study

EXAMPLES = """examples:
  modelfleet plan -f examples/fleet.yaml --demand 20
  modelfleet plan -f examples/fleet.yaml --demand examples/demand.csv --json out/plan.json
  modelfleet plan -f examples/fleet.yaml -f examples/policy.yaml --demand 0.5 -o out/plan.html

DEMAND is a number of requests per second, spread evenly over the tasks that the fleet's quality.byTask names
(500 tokens in, 250 out), or a file: YAML with a list `requests` of {rate, policy, tier, task, inputTokens,
outputTokens, quality: {MODEL: 0..1}}, or CSV with columns rate, policy, tier, task, input_tokens,
output_tokens and quality:MODEL. Only rate must be there.

Plans as if nothing ran and nodes offered what the pools' limits allow. Needs no cluster and starts nothing.
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    plan = commands.add_parser(
        "plan",
        help="what a fleet would buy for a demand, why, and what more would be worth",
        description="Plans a fleet's replicas by the operator's own program and says why, what comes of it, "
        "and what one more GPU or dollar would be worth.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan.add_argument(
        "-f",
        "--file",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="manifests of one ModelFleet and its RoutingPolicies; may be repeated",
    )
    plan.add_argument("--demand", required=True, metavar="DEMAND", help="requests per second, or a file")
    plan.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    plan.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the tables too: .html, else plain text"
    )
    plan.add_argument(
        "--time-limit", type=positive, default=10.0, metavar="SECONDS", help="for one plan (default 10)"
    )
    plan.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Plan and show; raise ValueError and OSError for manifests or demand that can not be used."""
    declared = read_declared(options.file)
    classes = read_demand(options.demand, declared)
    for path in (options.json, options.output):
        if path is not None:
            writable(path)
    for note in (*declared.notes, *left_out(classes, declared)):
        console.print(f"note: {note}", highlight=False, markup=False)
    found = study(declared.fleet, classes, budget_rates(declared.policies), time_limit=options.time_limit)
    show(found, console)
    if options.json is not None:
        _write(options.json, json.dumps(figures(found), indent=2) + "\n")
    if options.output is not None:
        page = Console(record=True, width=console.width, file=io.StringIO())
        show(found, page)
        _write(options.output, page.export_html() if options.output.suffix == ".html" else page.export_text())
    for path in (options.json, options.output):
        if path is not None:
            console.print(f"written to {path}", highlight=False)
    return 0


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
