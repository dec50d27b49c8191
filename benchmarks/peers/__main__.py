"""Measures the sidecar and other gateways side by side: CPU, latency, memory, start.

    python -m benchmarks.peers --json out/peers.json
    python -m benchmarks.peers --quick --targets sidecar,litellm --json out/quick.json

The measured program has one core for itself; the mock model server and the load generator have another. The
sidecar routes for real: four models, a trained estimator, a lease, a budget, metrics, 10,000 different
prompts of about 500 tokens. Figures by CPU second are of the server's own CPU time. What others did to the
machine meanwhile is written down.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.peers import fleet, phases, prompts
from benchmarks.peers.processes import Peak, ProgramError
from benchmarks.peers.targets import STARTS, Place
from benchmarks.peers.tools import Tools, build, running_mock

CACHE = Path.home() / ".cache" / "modelfleet" / "peers"
PROMPTS = 10_000
SEED = 20_261_122
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Measure the targets one after the other; write what is known after each. 1: some target failed."""
    options = _options()
    _say("building the mock model server and the load generator")
    tools = build(CACHE / "bin")
    with tempfile.TemporaryDirectory(prefix="modelfleet-peers-") as scratch:
        folder = Path(scratch)
        _say(f"writing {PROMPTS:,} prompts, training an estimator on {fleet.TRAINING_TEXTS:,} others")
        bodies = write_bodies(folder)
        estimator = fleet.trained_estimator()
        found: dict[str, Any] = {"about": about(options.quick), "targets": {}}
        for name in options.targets:
            place_folder = folder / name
            place_folder.mkdir()
            try:
                figures = measure(name, tools, bodies, estimator, place_folder, quick=options.quick)
            except (ProgramError, OSError, RuntimeError) as error:
                figures = {"error": str(error)}
                _say(f"{name}: {error}")
            found["targets"][name] = figures
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any("error" in figures for figures in found["targets"].values()))


def measure(
    name: str, tools: Tools, bodies: phases.Bodies, estimator: bytes, folder: Path, *, quick: bool
) -> dict[str, Any]:
    """Return the figures of one target."""
    _say(f"{name}: starting")
    with running_mock(tools, folder) as mock:
        effort = phases.QUICK if quick else phases.FULL
        bench = phases.Bench(tools, mock, bodies, effort, lambda words: _say(f"{name}: {words}"))
        with STARTS[name](Place(folder, mock.urls, estimator)) as target:
            time.sleep(2.0)
            figures: dict[str, Any] = {
                "ready_s": round(target.ready_s, 2),
                "rss_idle_mb": round(target.program.resident_mb(), 1),
            }
            with Peak(target.program) as peak:
                unary = phases.unary(bench, target)
                streams = phases.streams(bench, target)
                alone = phases.alone(bench, target)
            figures |= {
                "requests_per_cpu_s": unary["requests_per_cpu_s"],
                "chunks_per_cpu_s": streams["chunks_per_cpu_s"],
                "rss_load_mb": round(peak.resident_mb, 1),
                "unary": unary,
                "streams": streams,
                "alone": alone,
            }
    return figures


def write_bodies(folder: Path) -> phases.Bodies:
    """Write the requests that every target gets."""
    texts = prompts.prompts(PROMPTS, SEED)
    files = {
        kind: prompts.write_bodies(
            folder / f"{kind}.bodies",
            (prompts.chat_body(text, model="auto", stream=kind == "stream") for text in texts),
        )
        for kind in ("unary", "stream")
    }
    return phases.Bodies(files["unary"], files["stream"])


def about(quick: bool) -> Mapping[str, object]:
    """Return what the figures hold for."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip(),
        "version": metadata.version("modelfleet"),
        "python": platform.python_version(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "quick": quick,
        "concurrency": phases.CONCURRENCY,
        "streams": phases.STREAMS,
        "prompts": PROMPTS,
        "prompt_tokens": prompts.TOKENS,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
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


def _say(words: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
