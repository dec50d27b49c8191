"""Measures the sidecar and other gateways side by side: CPU, latency, memory, start, hardships.

    python -m benchmarks.peers --json out/peers.json
    python -m benchmarks.peers --quick --targets sidecar,litellm --json out/quick.json
    python -m benchmarks.peers --print out/peers.json

The measured program has one core for itself; the mock model server and the load generator have another. The
sidecar routes for real: four models, a trained estimator, a lease, a budget, metrics, 10,000 different
prompts of about 500 tokens. Figures by CPU second are of the server's own CPU time. What others did to the
machine meanwhile is written down. A file that is there already keeps its other targets, each with its date
and commit.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import fleet, hardships, messages, phases, prompts, rivals, table, targets
from benchmarks.peers.about import about
from benchmarks.peers.behaviours import behaviours
from benchmarks.peers.processes import Peak, ProgramError, end_with_us
from benchmarks.peers.slow import slow_clients
from benchmarks.peers.targets import Place, Start
from benchmarks.peers.tools import build, running_mock

CACHE = Path.home() / ".cache" / "modelfleet" / "peers"
PROMPTS = 10_000
SEED = 20_261_122
STARTS: Mapping[str, Start] = {
    "sidecar": targets.sidecar,
    "sidecar_grpc": targets.sidecar,
    "sidecar_priors": targets.sidecar,
    "litellm": rivals.litellm,
    "portkey": rivals.portkey,
    "vllm_router": rivals.vllm_router,
    "sglang_router": rivals.sglang_router,
    "envoy": rivals.envoy,
}
"""`sidecar_priors` goes by the manifest's word on its models instead of a trained estimator."""


def main() -> int:
    """Measure the targets one after the other; write what is known after each. 1: some target failed."""
    options = _options()
    if options.print:
        sys.stdout.write(table.page(json.loads(options.print.read_text(encoding="utf-8"))))
        return 0
    end_with_us()
    say("building the mock model server and the load generator")
    tools = build(CACHE / "bin")
    with tempfile.TemporaryDirectory(prefix="modelfleet-peers-") as scratch:
        folder = Path(scratch)
        say(f"writing {PROMPTS:,} prompts, training an estimator on {fleet.TRAINING_TEXTS:,} others")
        bodies, estimator = write_bodies(folder), fleet.trained_estimator()
        effort = phases.QUICK if options.quick else phases.FULL
        found: dict[str, Any] = {"targets": {}}
        if options.json.exists():
            found = json.loads(options.json.read_text(encoding="utf-8"))
        for name in options.targets:
            own = folder / name
            own.mkdir()
            said = partial(_say_of, name)
            said("starting")
            try:
                with running_mock(tools, own) as mock:
                    bench = phases.Bench(tools, mock, bodies, effort, said)
                    trained = None if name == "sidecar_priors" else estimator
                    place = Place(own, mock.urls, trained, CACHE, said)
                    figures = measure(name, bench, place, quick=options.quick)
            except (ProgramError, OSError, RuntimeError) as error:
                figures = {"error": str(error)}
                said(str(error))
            found["about"] = about(quick=options.quick, prompts=PROMPTS)
            when = {key: found["about"][key] for key in ("date", "commit", "quick")}
            found["targets"][name] = when | figures
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table.page(found))
    return int(any("error" in found["targets"][name] for name in options.targets))


def measure(name: str, bench: phases.Bench, place: Place, *, quick: bool) -> phases.Figures:
    """Return the figures of one target; those that have no meaning for it are None."""
    grpc = name == "sidecar_grpc"
    figures: phases.Figures = {}
    with STARTS[name](place) as target:
        figures["ready_s"] = round(target.ready_s, 2)
        time.sleep(2.0)
        figures["rss_idle_mb"] = round(target.program.resident_mb(), 1)
        with Peak(target.program) as peak:
            figures |= (phases.grpc_figures if grpc else phases.http_figures)(bench, target)
        figures["rss_load_mb"] = round(peak.resident_mb, 1)
        if name == "sidecar":
            figures |= hardships.loop_lag(bench, target, figures["unary"]["per_s"])
        if not grpc and name != "sidecar_priors":
            bench.say("callers who leave")
            figures["cancel_ms"] = hardships.cancels(bench, target)
            if not quick:
                bench.say("slow clients")
                figures["slow_clients"] = slow_clients(bench, target)
                bench.say("model servers that fail")
                figures["behaviours"] = behaviours(bench, target)
    if name == "sidecar":
        bench.say(f"{hardships.BURST} requests at once on {hardships.BURST_SLOTS} slots")
        with targets.sidecar(place, slots=hardships.BURST_SLOTS // len(fleet.MODELS)) as target:
            figures["burst"] = hardships.burst(bench, target)
    return figures


def write_bodies(folder: Path) -> Mapping[str, Path]:
    """Write the requests that every target gets, for each kind of load."""
    texts = prompts.prompts(PROMPTS, SEED)
    chat = partial(prompts.chat_body, model="auto")
    makers: Mapping[str, Callable[[str], bytes]] = {
        "unary": partial(chat, stream=False),
        "stream": partial(chat, stream=True),
        "grpc": messages.chat_message,
        "grpc-stream": messages.chat_message,
        "route": messages.route_message,
    }
    return {
        kind: prompts.write_bodies(folder / f"{kind}.bodies", map(make, texts))
        for kind, make in makers.items()
    }


def say(words: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {words}\n")
    sys.stdout.flush()


def _say_of(name: str, words: str) -> None:
    say(f"{name}: {words}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--json", type=Path, metavar="FILE", help="measure, and write the figures to this file")
    what.add_argument("--print", type=Path, metavar="FILE", help="print the tables of such a file instead")
    parser.add_argument("--quick", action="store_true", help="one short round; no slow clients, no faults")
    parser.add_argument(
        "--targets",
        type=_targets,
        default=list(STARTS),
        help=f"names with commas, of {', '.join(STARTS)}; all",
    )
    return parser.parse_args()


def _targets(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in STARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(STARTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
