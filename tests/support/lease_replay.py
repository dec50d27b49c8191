"""Shows what happened in one world of `lease_world.py`, up to the promise that was broken, if any.

PYTHONPATH=tests python -m support.lease_replay SEED [--steps 400] [--end] [--mutant "a lease does not end"]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext

from support.lease_checks import BrokenPromiseError, Check
from support.lease_mutants import MUTANTS
from support.lease_world import LeaseWorld


def run(seed: int, steps: int, *, end: bool = False, only: Check | None = None) -> LeaseWorld:
    """Let a world go on for `steps`, and then come to its end if `end`; raises BrokenPromiseError."""
    world = LeaseWorld(seed, only=only)
    finish(world, steps, end=end)
    return world


def finish(world: LeaseWorld, steps: int, *, end: bool) -> None:
    for _ in range(steps):
        world.step()
    if end:
        world.settle_down()
        world.checks.check_leaks()
        world.checks.check_all_can_be_had()


def run_many(seeds: Iterable[int], steps: int) -> Counter[str]:
    """Run many worlds to their end and return how often each thing happened; a failure says how to see it."""
    happened: Counter[str] = Counter()
    for seed in seeds:
        try:
            happened.update(run(seed, steps, end=True).happened)
        except Exception as error:
            command = f"PYTHONPATH=tests python -m support.lease_replay {seed} --steps {steps} --end"
            raise AssertionError(f"{error!r}; to see it: {command}") from error
    return happened


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of sidecars are walked through in the order of hashes
        command = [sys.executable, "-m", "support.lease_replay", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=False).returncode
    parser = argparse.ArgumentParser(description="Show the history of one world of leases.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--end", action="store_true", help="let all settle down afterwards")
    parser.add_argument("--last", type=int, default=0, help="show only the last lines")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break this rule first")
    args = parser.parse_args()
    world = LeaseWorld(args.seed)
    world.trace = []
    broken: BrokenPromiseError | None = None
    with MUTANTS[args.mutant].applied() if args.mutant else nullcontext():
        try:
            finish(world, args.steps, end=args.end)
        except BrokenPromiseError as error:
            broken = error
    print("\n".join(world.trace[-args.last :]))
    steps = sum(world.happened.values())
    print(f"step {steps}: {broken}" if broken is not None else f"{steps} steps: every promise was kept")
    return 1 if broken is not None else 0


if __name__ == "__main__":
    sys.exit(main())
