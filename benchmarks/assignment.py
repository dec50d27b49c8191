"""Assigns the same batches by the fast certified path and by full programs in OR-tools, side by side.

    python benchmarks/assignment.py --json out/assignment.json --instances 200
    python benchmarks/assignment.py --quick

Every method runs in this process, warm, on one thread; building the model counts on both sides and is
reported apart. Mixed-integer solvers get the absolute gap that the fast path has certified; linear ones are
followed by rounding (full columns keep who would lose most, rows send away who gains least per unit, what is
left is filled up). Seconds are the process's CPU time: the elapsed time where a core is free, so that
others on the machine disturb little; still compare ratios. Only the rivals' limit is elapsed time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from modelfleet_core.assignment import certificate, primal
from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.problem import AssignmentProblem
from modelfleet_core.assignment.result import Assignment, Prices
from modelfleet_core.assignment.solver import assign
from ortools.linear_solver import pywraplp
from ortools.sat.python import cp_model
from support.assignments import mixed

MIPS = ("SCIP", "HIGHS", "CP_SAT")
LPS = ("GLOP", "PDLP", "HIGHS_LP")


@dataclass(frozen=True, slots=True)
class Run:
    build: float
    solve: float
    objective: float

    @property
    def seconds(self) -> float:
        return self.build + self.solve


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """HiGHS prints a banner to the file descriptor, past sys.stdout."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def countdown(seconds: float) -> Callable[[], float]:
    end = time.process_time() + seconds
    return lambda: end - time.process_time()


def rebuilt(problem: AssignmentProblem) -> AssignmentProblem:
    """Build the problem once more from its figures, as a batch does."""
    return AssignmentProblem(
        weight=problem.weight,
        quality=problem.quality,
        cost=problem.cost,
        service_time=problem.service_time,
        eligible=problem.eligible,
        free=problem.free,
        slot_price=problem.slot_price,
        money_price=problem.money_price,
        defer=problem.defer,
        rows=problem.rows,
    )


def fast(problem: AssignmentProblem, warm: Prices | None, limit: float) -> tuple[Run, Assignment]:
    start = time.process_time()
    problem = rebuilt(problem)
    built = time.process_time()
    answer = assign(problem, remaining=countdown(limit), warm=warm)
    done = time.process_time()
    return Run(built - start, done - built, answer.objective), answer


def linear(problem: AssignmentProblem, solver_name: str, gap: float | None, limit: float) -> Run:
    """Run a solver of pywraplp; `gap`: absolute, None: the relaxation, rounded."""
    start = time.process_time()
    whole = gap is not None
    name = {"HIGHS": "HIGHS_MIXED_INTEGER_PROGRAMMING", "HIGHS_LP": "HIGHS_LINEAR_PROGRAMMING"}
    solver = pywraplp.Solver.CreateSolver(name.get(solver_name, solver_name))
    solver.SetNumThreads(1)
    solver.SetTimeLimit(int(limit * 1000))
    i, j = np.nonzero(np.isfinite(problem.value))
    infinity = solver.infinity()
    make = solver.BoolVar if whole else (lambda label: solver.NumVar(0.0, infinity, label))
    variables = [make("") for _ in range(i.size)]
    once = [solver.Constraint(-infinity, 1.0) for _ in range(problem.size[0])]
    slots = [solver.Constraint(-infinity, float(max(0, free))) for free in problem.free.tolist()]
    objective = solver.Objective()
    worth = (problem.value[i, j] + problem.defer[i]).tolist()
    for x, a, b, gain in zip(variables, i.tolist(), j.tolist(), worth, strict=True):
        objective.SetCoefficient(x, gain)
        once[a].SetCoefficient(x, 1.0)
        slots[b].SetCoefficient(x, 1.0)
    for row in problem.rows:
        constraint = solver.Constraint(-infinity, 1.0)
        for x, use in zip(variables, (row.use[i, j] / row.limit).tolist(), strict=True):
            if use:
                constraint.SetCoefficient(x, use)
    objective.SetMaximization()
    parameters = pywraplp.MPSolverParameters()
    if whole:
        top = float(np.maximum(problem.value.max(axis=1), -problem.defer).sum() + problem.defer.sum())
        parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, gap / max(top, 1e-9))
    built = time.process_time()
    with silent():
        status = solver.Solve(parameters)
    share = np.zeros(problem.value.shape)
    if status in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        share[i, j] = [x.solution_value() for x in variables]
    taken = np.where(share.max(axis=1) > 0.5, share.argmax(axis=1), -1)
    choice = taken if whole else rounded(problem, share)
    done = time.process_time()
    return Run(built - start, done - built, float(certificate.worth(problem, choice).sum()))


def rounded(problem: AssignmentProblem, share: np.ndarray) -> np.ndarray:
    cells = Cells(problem)
    wish = np.where(cells.usable, 0.0, -np.inf)
    wish[: cells.m] += share.T
    wish[cells.m] += 1.0 - share.sum(axis=1)
    choice = primal.fill(cells, primal.evict(cells, primal.ask(cells, wish)), remaining=lambda: 1.0)
    return np.where(choice == cells.m, -1, choice)


def cp_sat(problem: AssignmentProblem, gap: float, limit: float) -> Run:
    start = time.process_time()
    unit = 1e6
    model = cp_model.CpModel()
    i, j = np.nonzero(np.isfinite(problem.value))
    variables = [model.new_bool_var("") for _ in range(i.size)]
    of_request: list[list[cp_model.IntVar]] = [[] for _ in range(problem.size[0])]
    of_column: list[list[cp_model.IntVar]] = [[] for _ in range(problem.size[1])]
    for x, a, b in zip(variables, i.tolist(), j.tolist(), strict=True):
        of_request[a].append(x)
        of_column[b].append(x)
    for some in of_request:
        model.add_at_most_one(some)
    for some, free in zip(of_column, problem.free.tolist(), strict=True):
        model.add(cp_model.LinearExpr.sum(some) <= max(0, free))
    for row in problem.rows:
        use = np.ceil(row.use[i, j] / row.limit * unit).astype(np.int64).tolist()
        model.add(cp_model.LinearExpr.weighted_sum(variables, use) <= int(unit))
    worth = np.floor((problem.value[i, j] + problem.defer[i]) * unit).astype(np.int64).tolist()
    model.maximize(cp_model.LinearExpr.weighted_sum(variables, worth))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = limit
    solver.parameters.absolute_gap_limit = gap * unit
    built = time.process_time()
    status = solver.solve(model)
    choice = np.full(problem.size[0], -1)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        for x, a, b in zip(variables, i.tolist(), j.tolist(), strict=True):
            if solver.boolean_value(x):
                choice[a] = b
    done = time.process_time()
    return Run(built - start, done - built, float(certificate.worth(problem, choice).sum()))


def quantile(values: list[float], q: float) -> float:
    """Return the nearest-rank quantile."""
    return float(np.quantile(values, q, method="inverted_cdf"))


def against_rivals(instances: int, rivals: int, limit: float) -> dict[str, float]:
    """Measure 256 x 8: the fast path on all `instances`, the rivals on the first `rivals` of them."""
    seconds, builds, gaps, over = [], [], [], 0
    mip: dict[str, list[float]] = {name: [] for name in MIPS}
    lp: dict[str, list[float]] = {name: [] for name in LPS}
    mip_ratio, lp_ratio, mip_solve_ratio, lp_solve_ratio, lp_loss = [], [], [], [], []
    fast(mixed(0)[1], None, 0.2)
    for seed in range(instances):
        _, problem = mixed(seed)
        runs = [fast(problem, None, 0.05) for _ in range(3)]
        run, answer = sorted(runs, key=lambda pair: pair[0].seconds)[1]
        seconds.append(run.seconds)
        builds.append(run.build)
        gaps.append(answer.gap)
        over += not certificate.fits(problem, answer.choice)
        if seed >= rivals:
            continue
        gap = max(answer.bound - answer.objective, 1e-6 * problem.scale())
        whole = {
            name: cp_sat(problem, gap, limit) if name == "CP_SAT" else linear(problem, name, gap, limit)
            for name in MIPS
        }
        relaxed = {name: linear(problem, name, None, limit) for name in LPS}
        for name, other in whole.items():
            mip[name].append(other.seconds)
        for name, other in relaxed.items():
            lp[name].append(other.seconds)
        mip_ratio.append(min(other.seconds for other in whole.values()) / run.seconds)
        lp_ratio.append(min(other.seconds for other in relaxed.values()) / run.seconds)
        mip_solve_ratio.append(min(other.solve for other in whole.values()) / run.solve)
        lp_solve_ratio.append(min(other.solve for other in relaxed.values()) / run.solve)
        best = max(other.objective for other in relaxed.values())
        lp_loss.append((answer.bound - best) / problem.scale())
    figures = {
        "assign_256x8_gap_p50": statistics.median(gaps),
        "assign_256x8_gap_p99": quantile(gaps, 0.99),
        "assign_256x8_ms_p50": 1e3 * statistics.median(seconds),
        "assign_256x8_ms_p99": 1e3 * quantile(seconds, 0.99),
        "assign_256x8_build_ms_p50": 1e3 * statistics.median(builds),
        "assign_speedup_vs_mip_median": statistics.median(mip_ratio),
        "assign_speedup_vs_lp_median": statistics.median(lp_ratio),
        "assign_speedup_vs_mip_solving_only_median": statistics.median(mip_solve_ratio),
        "assign_speedup_vs_lp_solving_only_median": statistics.median(lp_solve_ratio),
        "assign_lp_rounded_gap_p99": quantile(lp_loss, 0.99),
        "assign_violations": float(over),
        "assign_instances": float(instances),
        "assign_instances_with_rivals": float(min(instances, rivals)),
    }
    for name, taken in (mip | lp).items():
        figures[f"assign_{name.lower()}_ms_p50"] = 1e3 * statistics.median(taken)
    return figures


def warm(instances: int) -> dict[str, float]:
    """Measure 64 x 8, from the prices of a batch that was much the same."""
    seconds, gaps = [], []
    for seed in range(instances):
        _, problem = mixed(seed, 64, 8)
        prices = assign(problem, remaining=countdown(0.05)).prices
        shake = np.random.default_rng(seed)
        last = Prices(
            prices.slots * shake.uniform(0.9, 1.1, prices.slots.size),
            prices.rows * shake.uniform(0.9, 1.1, prices.rows.size),
        )
        runs = [fast(problem, last, 0.05) for _ in range(3)]
        run, answer = sorted(runs, key=lambda pair: pair[0].seconds)[1]
        seconds.append(run.seconds)
        gaps.append(answer.gap)
    return {
        "assign_64x8_warm_ms_p50": 1e3 * statistics.median(seconds),
        "assign_64x8_warm_gap_p50": statistics.median(gaps),
    }


def large(instances: int) -> dict[str, float]:
    small_seconds, seconds, gaps = [], [], []
    for seed in range(instances):
        small_seconds.append(fast(mixed(seed, 1_000, 12)[1], None, 1.5)[0].seconds)
        run, answer = fast(mixed(seed, 10_000, 12)[1], None, 1.5)
        seconds.append(run.seconds)
        gaps.append(answer.gap)
    return {
        "assign_10000x12_s": statistics.median(seconds),
        "assign_10000x12_s_max": max(seconds),
        "assign_10000x12_gap_max": max(gaps),
        "assign_growth_1000_10000": statistics.median(seconds) / statistics.median(small_seconds) / 10.0,
    }


TABLE = (
    ("assign_256x8_gap_p99", "256 x 8: certified gap p99", "<= 0.1 %", "0.05 %", 1e-3, 100.0, "%"),
    ("assign_256x8_ms_p50", "256 x 8: time p50", "<= 10 ms", "3 ms", 10.0, 1.0, "ms"),
    ("assign_256x8_ms_p99", "256 x 8: time p99", "<= 30 ms", "10 ms", 30.0, 1.0, "ms"),
    ("assign_speedup_vs_mip_median", "faster than the best MIP", ">= 20 x", "60 x", -20.0, 1.0, "x"),
    ("assign_speedup_vs_lp_median", "faster than the best LP", ">= 3 x", "8 x", -3.0, 1.0, "x"),
    ("assign_64x8_warm_ms_p50", "64 x 8, warm: time p50", "<= 3 ms", "1 ms", 3.0, 1.0, "ms"),
    ("assign_10000x12_s", "10,000 x 12: time", "<= 1.5 s", "0.5 s", 1.5, 1.0, "s"),
    ("assign_10000x12_gap_max", "10,000 x 12: certified gap", "<= 0.1 %", "", 1e-3, 100.0, "%"),
    ("assign_growth_1000_10000", "growth 1,000 to 10,000", "<= 1.3", "1", 1.3, 1.0, "of linear"),
    ("assign_violations", "limits broken", "0", "0", 0.0, 1.0, ""),
)
"""Key, words, required, go for, threshold (negative: at least), factor and unit of what is printed."""


def show(figures: dict[str, float]) -> None:
    print(f"{'what':<30}{'required':>12}{'go for':>10}{'measured':>18}")
    for key, words, required, aim, threshold, factor, unit in TABLE:
        value = figures[key]
        reached = value >= -threshold if threshold < 0 else value <= threshold
        text = f"{factor * value:.3g} {unit}"
        print(f"{words:<30}{required:>12}{aim:>10}{text:>18}  {'' if reached else 'missed'}")
    for name in (*MIPS, *LPS):
        print(f"{name:<10}{figures[f'assign_{name.lower()}_ms_p50']:>10.1f} ms p50")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--rivals", type=int, help="instances on which the rivals run too (default: all)")
    parser.add_argument("--limit", type=float, default=2.0, help="seconds that a rival may take per batch")
    parser.add_argument("--quick", action="store_true", help="48 instances, rivals on 6, under a minute")
    options = parser.parse_args()
    instances = 48 if options.quick else options.instances
    rivals = 6 if options.quick else options.rivals if options.rivals is not None else instances
    limit = 1.0 if options.quick else options.limit
    figures = against_rivals(instances, rivals, limit)
    figures |= warm(instances)
    figures |= large(6 if options.quick else 12)
    show(figures)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
