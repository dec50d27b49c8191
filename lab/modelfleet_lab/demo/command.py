"""`modelfleet demo`: the product against four baselines on the same traffic.

In: the command line. Out: a report in a folder, by `run`. Next: `run`, and `kubernetes` where asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from rich.console import Console

from modelfleet_lab.command_line import CommandError, Parsers, positive, until_signal
from modelfleet_lab.controlplane.binaries import BinariesError
from modelfleet_lab.controlplane.daemon import DaemonError
from modelfleet_lab.controlplane.namespace import NamespaceError
from modelfleet_lab.demo.children import ChildError
from modelfleet_lab.demo.examples import ExamplesError, say, show_examples
from modelfleet_lab.demo.hosts import EmbeddedHost, LateStartError
from modelfleet_lab.demo.kubectl import ROOT, Kubectl, KubectlError
from modelfleet_lab.demo.kubernetes import KubernetesHost, control_plane, wait_for_room
from modelfleet_lab.demo.run import Options, run_demo

FAILURES = (
    ChildError,
    LateStartError,
    ExamplesError,
    KubectlError,
    BinariesError,
    NamespaceError,
    DaemonError,
)
EXAMPLES = """examples:
  modelfleet demo
  modelfleet demo --seed 7 --output out/seed-7
  modelfleet demo --kubernetes --output out/demo-kubernetes
  modelfleet demo --data data/zeroeval --trace data/traces/azure_llm_2023_conv.parquet

DIR holds, of ZeroEval, queries.parquet (query_id, task, prompt, ref_answer), outcomes.parquet (query_id,
model, quality, output_tokens) and models.csv (model, experimental_or_duplicate_endpoint); FILE is a Parquet
table with t_s (seconds), input_tokens and output_tokens.

Needs no cluster. With --kubernetes it starts a control plane of its own: first the manifests of examples/ go
from kubectl to a streamed answer, then the comparison runs.
Stops all that it started, also when interrupted.
"""


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    demo = commands.add_parser(
        "demo",
        help="the product against four baselines on the same traffic",
        description="Replays bursty traffic through the product and four baselines, and compares them by the "
        "logs of the (simulated) model servers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--seed", type=int, default=1, help="of questions, outcomes and the trace's excerpt")
    demo.add_argument("--duration", type=positive, default=20.0, metavar="SECONDS", help="of the traffic")
    demo.add_argument("--rate", type=positive, default=32.0, help="mean requests per second (default 32)")
    demo.add_argument("--data", type=Path, metavar="DIR", help="real questions with recorded outcomes")
    demo.add_argument("--trace", type=Path, metavar="FILE", help="arrivals as Parquet, compressed in time")
    demo.add_argument(
        "--kubernetes", action="store_true", help="on a real control plane on this machine (Linux, root, Go)"
    )
    demo.add_argument("-o", "--output", type=Path, default=Path("out/demo"), metavar="DIR")
    demo.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the demo; raise `CommandError` if a program of it fails, ValueError and OSError for bad data."""
    demo = Options(
        seed=options.seed,
        duration=options.duration,
        rate=options.rate,
        data=options.data,
        trace=options.trace,
        output=options.output,
    )
    try:
        if options.kubernetes:
            _on_kubernetes(demo, console)
        else:
            asyncio.run(until_signal(run_demo(demo, EmbeddedHost(), console)))
    except FAILURES as error:
        raise CommandError(str(error)) from error
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error
    return 0


def _on_kubernetes(options: Options, console: Console) -> None:
    """Run both acts on a control plane that lives as long as they; raise ValueError outside a checkout."""
    if not (ROOT / "examples").is_dir():
        raise ValueError(
            f"--kubernetes applies crds/ and examples/, which {ROOT} does not have: use a checkout"
        )
    with (
        tempfile.TemporaryDirectory(prefix="modelfleet-") as folder,
        control_plane(Path(folder), console) as plane,
    ):
        asyncio.run(until_signal(_two_acts(options, Kubectl(plane, console), Path(folder) / "examples")))


async def _two_acts(options: Options, kubectl: Kubectl, folder: Path) -> None:
    await show_examples(kubectl, folder)
    say(kubectl.console, "Second act: the same traffic through modelfleet and four baselines")
    await wait_for_room(kubectl.console)
    await run_demo(options, KubernetesHost(kubectl), kubectl.console)
