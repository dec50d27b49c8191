"""`modelfleet`: the lab's commands.

In: the command line. Out: an exit status: 0 done, 1 a program failed, 2 wrong options or data, 130
interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from modelfleet_lab.controlplane.binaries import BinariesError
from modelfleet_lab.controlplane.namespace import NamespaceError
from modelfleet_lab.controlplane.start import ControlPlaneError
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
    ControlPlaneError,
)
PLAIN_WIDTH = 120
"""Columns of the table where there is no terminal to ask."""
EXAMPLES = """examples:
  modelfleet demo                         watch a fleet being planned, scaled and routed on this machine
  modelfleet demo --seed 7                other questions at other times
  modelfleet demo --data DIR --trace FILE real questions, recorded outcomes, the times of your trace
"""
DEMO_EXAMPLES = """examples:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelfleet",
        description="The lab of modelfleet.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="the product against four baselines on the same traffic",
        description="Replays bursty traffic through the product and four baselines, and compares them by the "
        "logs of the (simulated) model servers.",
        epilog=DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--seed", type=int, default=1, help="of questions, outcomes and the trace's excerpt")
    demo.add_argument("--duration", type=_positive, default=20.0, metavar="SECONDS", help="of the traffic")
    demo.add_argument("--rate", type=_positive, default=32.0, help="mean requests per second (default 32)")
    demo.add_argument("--data", type=Path, metavar="DIR", help="real questions with recorded outcomes")
    demo.add_argument("--trace", type=Path, metavar="FILE", help="arrivals as Parquet, compressed in time")
    demo.add_argument(
        "--kubernetes", action="store_true", help="on a real control plane on this machine (Linux, root, Go)"
    )
    demo.add_argument("-o", "--output", type=Path, default=Path("out/demo"), metavar="DIR")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    options = _parser().parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
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
            asyncio.run(_until_signal(run_demo(demo, EmbeddedHost(), console)))
    except FAILURES as error:
        console.print(f"modelfleet demo: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (ValueError, OSError) as error:
        console.print(f"modelfleet demo: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("modelfleet demo: interrupted; all it started has been stopped")
        return 130
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
        asyncio.run(_until_signal(_two_acts(options, Kubectl(plane, console), Path(folder) / "examples")))


async def _two_acts(options: Options, kubectl: Kubectl, folder: Path) -> None:
    await show_examples(kubectl, folder)
    say(kubectl.console, "Second act: the same traffic through modelfleet and four baselines")
    await wait_for_room(kubectl.console)
    await run_demo(options, KubernetesHost(kubectl), kubectl.console)


async def _until_signal(work: Coroutine[Any, Any, object]) -> None:
    """Do the work; Ctrl-C and SIGTERM end it with everything cleaned up."""
    task = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


if __name__ == "__main__":
    sys.exit(main())
