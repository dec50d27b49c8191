"""Assigns the same batches by the fast certified path and by full programs in OR-tools, side by side.

Prints a table and writes JSON: seconds (median and 95th percentile), the gap that each one certifies, and
the true gap against the best bound that any of them proved. Ratios within one run are what to compare;
seconds depend on the machine.

    python benchmarks/assignment.py --requests 256 --models 8 --batches 20 --out out/assignment.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modelfleet_core.assignment import certificate, program
from modelfleet_core.assignment.problem import AssignmentProblem
from modelfleet_core.assignment.result import Prices
from modelfleet_core.assignment.solver import assign
from support.assignments import traffic

CASES = {
    "slots and money bind": {"load": 1.3, "money": 0.4},
    "money binds": {"load": 0.6, "money": 0.25},
    "slots bind": {"load": 1.8, "money": 9.0},
    "many alike": {"load": 1.3, "money": 0.5, "tied": True},
    "nothing binds": {"slack": True},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    objective: float
    bound: float


@dataclass(frozen=True, slots=True)
class Figures:
    case: str
    method: str
    median_ms: float
    p95_ms: float
    certified_gap_median: float
    certified_gap_max: float
    true_gap_median: float
    true_gap_max: float


def countdown(seconds: float) -> Callable[[], float]:
    end = time.perf_counter() + seconds
    return lambda: end - time.perf_counter()


def fast(problem: AssignmentProblem, warm: Prices | None = None) -> tuple[Outcome, Prices]:
    answer = assign(problem, remaining=countdown(0.2), warm=warm)
    return Outcome(answer.objective, answer.bound), answer.prices


def full(problem: AssignmentProblem, limit: float) -> Outcome:
    answer = program.solve(problem, time_limit=limit)
    if answer is None:
        waiting = -float(problem.defer.sum())
        return Outcome(waiting, waiting + problem.scale())
    return Outcome(float(certificate.worth(problem, answer.choice).sum()), answer.bound)


def timed(run: Callable[[], Outcome]) -> tuple[float, Outcome]:
    start = time.perf_counter()
    outcome = run()
    return time.perf_counter() - start, outcome


def measure(case: str, n: int, m: int, batches: int, limit: float) -> list[Figures]:
    """Run every method on the same batches; `true` gaps use the lowest bound that any of them proved."""
    runs: dict[str, list[tuple[float, Outcome]]] = {"fast": [], "fast, warm": [], "OR-tools": []}
    problems = [traffic(seed, n, m, **CASES[case]) for seed in range(batches)]
    for problem in problems:
        runs["fast"].append(timed(lambda problem=problem: fast(problem)[0]))
        prices = fast(problem)[1]
        runs["fast, warm"].append(timed(lambda problem=problem, prices=prices: fast(problem, prices)[0]))
        runs["OR-tools"].append(timed(lambda problem=problem: full(problem, limit)))
    bounds = [
        min(outcome.bound for outcome in outcomes)
        for outcomes in zip(*([o for _, o in results] for results in runs.values()), strict=True)
    ]
    figures = []
    for method, results in runs.items():
        seconds = sorted(taken for taken, _ in results)
        scales = [problem.scale() for problem in problems]
        certified = [(o.bound - o.objective) / s for (_, o), s in zip(results, scales, strict=True)]
        true = [(bound - o.objective) / s for (_, o), bound, s in zip(results, bounds, scales, strict=True)]
        figures.append(
            Figures(
                case=case,
                method=method,
                median_ms=1e3 * statistics.median(seconds),
                p95_ms=1e3 * seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
                certified_gap_median=max(0.0, statistics.median(certified)),
                certified_gap_max=max(0.0, *certified),
                true_gap_median=max(0.0, statistics.median(true)),
                true_gap_max=max(0.0, *true),
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds that OR-tools may take per batch")
    parser.add_argument("--out", type=Path, default=Path("out/assignment.json"))
    options = parser.parse_args()
    print(f"{options.requests} requests x {options.models} models, {options.batches} batches per case")
    print(f"{'case':<22}{'method':<12}{'median':>10}{'p95':>10}{'certified gap':>22}{'true gap':>22}")
    rows = []
    for case in CASES:
        for row in measure(case, options.requests, options.models, options.batches, options.limit):
            rows.append(row)
            print(
                f"{row.case:<22}{row.method:<12}{row.median_ms:>7.1f} ms{row.p95_ms:>7.1f} ms"
                f"{row.certified_gap_median:>11.4%}{row.certified_gap_max:>11.4%}"
                f"{row.true_gap_median:>11.4%}{row.true_gap_max:>11.4%}",
                flush=True,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    size = {"requests": options.requests, "models": options.models, "batches": options.batches}
    options.out.write_text(json.dumps(size | {"results": [asdict(row) for row in rows]}, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
