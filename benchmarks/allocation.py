"""Plans fleets of 50 models, 8 pools and 64 demand classes, beside the plain programs and the fallback.

Every method gets the same problems with the same coefficients, in one process on one thread: the allocator as
the operator calls it, the mixed-integer program as the design writes it in SCIP and in HiGHS to the same gap,
and greedy with swaps. The allocator alone finds the coefficients (utilisation by group, prices of starts) and
gives prices, reasons and hysteresis; the others get the coefficients for nothing. Seconds include building
the programs; that part is also told apart. Gaps are at these coefficients; the allocator also proves a
bound for plans with groups of any sizes, which is looser, and that gap is told apart. Ratios within one run
are what to compare; seconds depend on the machine and on what else it does.

    python benchmarks/allocation.py --json out/allocation.json
    python benchmarks/allocation.py --quick --json out/allocation.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modelfleet_core.allocation import greedy
from modelfleet_core.allocation.limits import limits, maximums, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program
from modelfleet_core.allocation.relaxation import relax
from modelfleet_core.allocation.solver import GAP, allocate
from modelfleet_core.allocation.worth import Worth, worth
from support.allocations import KINDS, large_fleet, plain_program

T = TypeVar("T")
LIMIT = 10.0
"""Seconds that any program may take for one plan."""


@dataclass(frozen=True, slots=True)
class Spent:
    wall: float
    cpu: float
    """Of this process; on a busy machine the wall clock also shows what others do."""


@dataclass(slots=True)
class Runs:
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """At the utilisations that every method is given."""
    proven: list[float] = field(default_factory=list)
    """To the bound that holds for groups of any sizes; empty where a method proves none."""

    def add(self, spent: Spent, gap: float, proven: float | None = None) -> None:
        self.seconds.append(spent.wall)
        self.cpu.append(spent.cpu)
        self.gaps.append(gap)
        if proven is not None:
            self.proven.append(proven)


def gap_of(objective: float, bound: float) -> float:
    return max(0.0, bound - objective) / max(1e-9, abs(bound))


def timed(run: Callable[[], T]) -> tuple[Spent, T]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def coefficients(problem: AllocationProblem) -> tuple[Worth, float]:
    """Return what the allocator counts replicas with, and the relaxation's bound with them."""
    within = limits(problem)
    first = worth(problem, within)
    linear = Program(problem, within, first, integer=False)
    lower, upper = minimums(within), maximums(within)
    found = relax(problem, within, first, linear, lower=lower, upper=upper, time_limit=LIMIT)
    return found.worth, found.answer.bound if found.answer is not None else math.inf


@contextmanager
def quiet() -> Iterator[None]:
    """Keep HiGHS' banner, which it writes past Python, off the table."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def measure(seeds: range, rivals: int) -> dict[str, float]:
    """Plan every kind with every seed; the plain programs plan the first `rivals` seeds of each."""
    ours, steady, scip, highs, simple = Runs(), Runs(), Runs(), Runs(), Runs()
    building: list[float] = []
    ratios: list[float] = []
    allocate(large_fleet(0, "tight"), time_limit=LIMIT)  # OR-tools is loaded and warm
    for seed in seeds:
        for kind in KINDS:
            problem = large_fleet(seed, kind)
            seconds, plan = timed(lambda problem=problem: allocate(problem, time_limit=LIMIT))
            ours.add(seconds, plan.search_gap, plan.gap)
            running = {key: variant.replicas for key, variant in plan.variants.items()}
            again = replace(problem, current=running, occupied=running)
            spent, kept = timed(lambda again=again: allocate(again, time_limit=LIMIT))
            steady.add(spent, kept.search_gap, kept.gap)
            within = limits(problem)
            counted, bound = coefficients(problem)
            building.append(
                sum(
                    timed(lambda p=problem, w=within, c=counted, i=i: Program(p, w, c, integer=i))[0].wall
                    for i in (False, True)
                )
            )
            spent, (_, value) = timed(
                lambda p=problem, w=within, c=counted: greedy.allocate(
                    p, w, c, lower=minimums(w), upper=maximums(w)
                )
            )
            simple.add(spent, gap_of(value, bound))
            if seed - seeds.start >= rivals:
                continue
            taken = []
            for solver, runs in (("SCIP", scip), ("HIGHS", highs)):
                with quiet():
                    spent, answer = timed(
                        lambda p=problem, c=counted, s=solver: plain_program(
                            p, c, solver=s, gap=GAP, time_limit=LIMIT
                        )
                    )
                runs.add(spent, gap_of(answer.objective, answer.bound))
                taken.append(spent.cpu)
            ratios.append(min(taken) / seconds.cpu)
        print(f"  seed {seed}: p50 {statistics.median(ours.seconds):.3f} s so far", flush=True)
    figures = {"instances": float(len(ours.seconds)), "instances_of_plain_programs": float(len(ratios))}
    for name, runs in (
        ("allocate", ours),
        ("steady", steady),
        ("scip", scip),
        ("highs", highs),
        ("greedy", simple),
    ):
        figures |= {
            f"{name}_50x8x64_s_p50": statistics.median(runs.seconds),
            f"{name}_50x8x64_s_p99": percentile(runs.seconds, 0.99),
            f"{name}_50x8x64_cpu_s_p50": statistics.median(runs.cpu),
            f"{name}_50x8x64_cpu_s_p99": percentile(runs.cpu, 0.99),
            f"{name}_gap_p50": statistics.median(runs.gaps),
            f"{name}_gap_p99": percentile(runs.gaps, 0.99),
        }
    for name, runs in (("allocate", ours), ("steady", steady)):
        figures[f"{name}_gap_any_sizes_p50"] = statistics.median(runs.proven)
        figures[f"{name}_gap_any_sizes_p99"] = percentile(runs.proven, 0.99)
    return figures | {
        "allocate_building_s_p50": statistics.median(building),
        "allocate_over_fastest_plain_p50": statistics.median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("out/allocation.json"))
    parser.add_argument("--quick", action="store_true", help="24 instances in place of 208")
    options = parser.parse_args()
    seeds = range(1, 4) if options.quick else range(1, 27)
    print(f"50 models, 8 pools, 64 classes; {len(seeds) * len(KINDS)} instances, kinds {', '.join(KINDS)}")
    figures = measure(seeds, 1 if options.quick else 5)
    heading = f"{'p50':>9}{'p99':>9}{'CPU p50':>9}{'CPU p99':>9}{'gap p50':>9}{'gap p99':>9}"
    print(f"\n{'method, seconds':<36}{heading}")
    for name, what in (
        ("allocate", "modelfleet"),
        ("steady", "modelfleet, from its own plan"),
        ("scip", f"plain program, SCIP, gap {GAP:.1%}"),
        ("highs", f"plain program, HiGHS, gap {GAP:.1%}"),
        ("greedy", "greedy and swaps, without a program"),
    ):
        times = [figures[f"{name}_50x8x64_{row}"] for row in ("s_p50", "s_p99", "cpu_s_p50", "cpu_s_p99")]
        gaps = f"{figures[f'{name}_gap_p50']:>9.2%}{figures[f'{name}_gap_p99']:>9.2%}"
        print(f"{what:<36}" + "".join(f"{value:>9.3f}" for value in times) + gaps)
    print(f"\n{'row':<34}{'required':>10}{'go for':>10}{'measured':>11}")
    p99, gap = figures["allocate_50x8x64_s_p99"], figures["allocate_gap_p99"]
    print(f"{'seconds, p99':<34}{'<= 2':>10}{'0.5':>10}{p99:>11.3f}")
    print(f"{'gap at the utilisations found, p99':<34}{'<= 0.5%':>10}{'':>10}{gap:>11.2%}")
    proven = [figures[f"allocate_gap_any_sizes_{part}"] for part in ("p50", "p99")]
    print(f"{'gap to a bound for any sizes':<34}{'':>10}{'':>10}{proven[1]:>11.2%}  (median {proven[0]:.2%})")
    print(
        f"of these, building the programs takes {figures['allocate_building_s_p50']:.3f} s; the faster plain "
        f"program takes {figures['allocate_over_fastest_plain_p50']:.1f} times the CPU (medians)"
    )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
