"""What figures hold for: machine, commit, date, versions."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from benchmarks.peers import phases
from benchmarks.peers.prompts import TOKENS

ROOT = Path(__file__).parents[2]
RIVALS = {
    "litellm": "1.106.2",
    "portkey": "1.15.2",
    "vllm_router": "0.1.17",
    "sglang_router": "0.3.2",
    "envoy": "1.40.0",
}
"""Versions, as the lock files have them."""


def about(*, quick: bool, prompts: int) -> Mapping[str, object]:
    """Return what the figures of this run hold for."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "versions": {"modelfleet": metadata.version("modelfleet"), **RIVALS},
        "python": platform.python_version(),
        "machine": processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "quick": quick,
        "concurrency": phases.CONCURRENCY,
        "streams": phases.STREAMS,
        "prompts": prompts,
        "prompt_tokens": TOKENS,
    }


def commit() -> str:
    """Return the commit of the checkout, with a plus where it has changes; empty: it is no checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's name, as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
