"""Merges the demand of many sidecars, divides capacity and shares it out, beside the program in OR-tools.

Each round is a second of an operator under load: all sidecars have reported, rates have drifted. Timed apart:
`hear`, taking over the reports as they come; `merge`, classes out of them; `program`, prices and flows;
`targets`, each sidecar's part as the lease book takes it. `whole` is all but `hear`, which the second spreads
out; `cpu` is its CPU time, which other processes of a busy machine disturb less. GLOP solves the same program
from the same arrays, model building included, and again in the plain form that has flows of each sidecar.
Ratios within one run are what to compare; seconds depend on the machine.

    python benchmarks/division.py --json out/division.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread each, before numpy starts its own
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from modelfleet_core.demand.meter import DemandMeter
from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.division import dual, program
from modelfleet_core.division.arrays import arrays_of
from modelfleet_core.division.problem import problem_of
from modelfleet_core.division.result import Division
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import ModelName, ObjectKey
from ortools.linear_solver import pywraplp
from support.fleets import fleet, key, model, on_pool
from support.manifests import policy_manifest
from support.sketches import cell

POLICY = ObjectKey("ml", "assistant")
KNOWN = {POLICY: parse_policy(policy_manifest())}

Answer = TypeVar("Answer")


class Town:
    """Sidecars with skewed, drifting demand for the same classes, over models from small to large."""

    def __init__(self, sidecars: int, classes: int, models: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.sidecars = [SidecarId("ml", f"s{n}", f"s{n}", "1") for n in range(sidecars)]
        self.policies = dict.fromkeys(self.sidecars, POLICY)
        self._models = tuple(ModelName(f"m{j}") for j in range(models))
        self._cells = tuple(cell(f"task{k}/{k % 10}") for k in range(classes))
        size = np.linspace(0.2, 1.0, models)
        self._rates = self._random.pareto(1.2, (sidecars, classes)) * self._random.uniform(0, 1, classes)
        quality = np.clip(0.8 * size + self._random.normal(0, 0.08, (classes, models)), 0, 1)
        seconds = size * self._random.uniform(1, 4, (classes, 1))
        cost = size**3 * self._random.uniform(0.001, 0.01, (classes, 1))
        self._offers = np.stack([np.ones_like(quality), quality, cost, seconds], axis=2)
        self._arrivals = np.zeros((sidecars, classes))
        self.fleet = fleet(*(model(on_pool(name)) for name in self._models))
        load = self._rates.sum(axis=0) @ seconds.mean(axis=1) / models
        self._slots = {key(name): max(1, int(1.1 * load)) for name in self._models}
        self._money = 0.6 * float(self._rates.sum(axis=0) @ cost.mean(axis=1))

    def reports(self) -> list[DemandReport]:
        """Return what every sidecar reports after one more second."""
        drift = np.exp(self._random.normal(0, 0.1, self._rates.shape))
        self._arrivals += self._random.poisson(self._rates * drift)
        sums = self._arrivals[:, :, None, None] * self._offers
        return [
            DemandReport(self._models, self._cells, self._arrivals[s].copy(), sums[s])
            for s in range(len(self.sidecars))
        ]

    def capacity(self) -> dict:
        """Return slots that come and go a little."""
        return {
            name: max(0, slots + int(self._random.integers(-1, 2))) for name, slots in self._slots.items()
        }

    def budget(self) -> dict[ObjectKey, float]:
        return {POLICY: self._money * float(self._random.uniform(0.8, 1.2))}


def timed(run: Callable[[], Answer]) -> tuple[float, Answer]:
    start = time.perf_counter()
    answer = run()
    return 1e3 * (time.perf_counter() - start), answer


def plain(rates: np.ndarray, problem: object) -> float:
    """Solve the program with flows of every sidecar, as a reader of the formula would first write it."""
    arrays = arrays_of(problem)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    goal = solver.Objective()
    goal.SetMaximization()
    busy = [solver.Constraint(-infinity, float(slots)) for slots in arrays.busy]
    money = [solver.Constraint(-infinity, float(rate)) for rate in arrays.money]
    for row in rates:
        for k in np.flatnonzero(row):
            arrivals = solver.Constraint(float(row[k]), float(row[k]))
            shed = solver.NumVar(0.0, infinity, "")
            arrivals.SetCoefficient(shed, 1.0)
            goal.SetCoefficient(shed, -float(arrays.penalty[k]))
            for j in np.flatnonzero(arrays.offered[k]):
                flow = solver.NumVar(0.0, infinity, "")
                arrivals.SetCoefficient(flow, 1.0)
                goal.SetCoefficient(flow, float(arrays.value[k, j]))
                busy[j].SetCoefficient(flow, float(arrays.seconds[k, j]))
                if arrays.budget[k] >= 0:
                    money[arrays.budget[k]].SetCoefficient(flow, float(arrays.cost[k, j]))
    solver.Solve()
    return float(goal.Value())


def measure(sidecars: int, classes: int, models: int, rounds: int, *, whole_lp: bool) -> dict[str, float]:
    town, meter = Town(sidecars, classes, models, seed=5), DemandMeter()
    taken: dict[str, list[float]] = {
        name: [] for name in ("hear", "merge", "program", "targets", "whole", "cpu", "cold", "glop")
    }
    missed, moved = [], []
    division: Division | None = None
    for second in range(rounds + 2):
        reports = town.reports()
        now = float(second)

        def hear(reports: list[DemandReport] = reports, now: float = now) -> None:
            for name, report in zip(town.sidecars, reports, strict=True):
                meter.hear(name, report, now)

        heard, _ = timed(hear)
        began = time.process_time()
        merging, shared = timed(lambda now=now: meter.shared(town.policies, KNOWN, now))
        cpu = time.process_time() - began
        slots, budget = town.capacity(), town.budget()
        alone = problem_of(town.fleet, shared, slots, budget)
        last = division
        began = time.process_time()
        solving, division = timed(lambda alone=alone, last=last: divide(alone, warm=last))
        sharing, _ = timed(lambda found=division: (found.targets.by_sidecar(), found.targets.allowances()))
        cpu += time.process_time() - began
        cold, _ = timed(lambda alone=alone: divide(alone))
        plainly, optimum = timed(lambda alone=alone: program.solve(arrays_of(alone), time_limit=10.0))
        if second < 2:  # the first reports only say from where to count
            continue
        for name, figure in (
            ("hear", heard),
            ("merge", merging),
            ("program", solving),
            ("targets", sharing),
            ("whole", merging + solving + sharing),
            ("cpu", 1e3 * cpu),
            ("cold", cold),
            ("glop", plainly),
        ):
            taken[name].append(figure)
        arrays = arrays_of(alone)
        stake = optimum.objective + float(arrays.rate @ arrays.penalty)
        missed.append((dual.bound(arrays, division.prices) - optimum.objective) / stake)
        if last is not None:
            jump = np.abs(division.prices.slots - last.prices.slots)
            moved.append(float((jump / np.maximum(0.05, last.prices.slots)).max()))
    name = f"division_{sidecars}x{classes}x{models}"
    figures = {}
    for part, values in taken.items():
        label = f"{name}_ms" if part == "whole" else f"{name}_{part}_ms"
        figures[f"{label}_p50"] = float(np.median(values))
        figures[f"{label}_p99"] = float(np.quantile(values, 0.99))
    figures[f"{name}_bound_above_lp_p50"] = float(np.median(missed))
    figures[f"{name}_bound_above_lp_max"] = float(max(missed))
    figures[f"{name}_largest_price_move_per_second"] = max(moved)
    if whole_lp:
        figures[f"{name}_glop_by_sidecar_ms"], _ = timed(lambda: plain(shared.rates, alone))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("out/division.json"))
    parser.add_argument("--quick", action="store_true", help="few rounds, and no program by sidecar")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    for sidecars, classes, models in ((1000, 16, 12), (2000, 16, 12), (1000, 60, 12)):
        rounds = 20 if options.quick else 200
        found = measure(
            sidecars,
            classes,
            models,
            rounds,
            whole_lp=not options.quick and (sidecars, classes) == (1000, 16),
        )
        figures |= found
        print(f"{sidecars} sidecars x {classes} cells x {models} models, {rounds} rounds")
        name = f"division_{sidecars}x{classes}x{models}"
        for part in ("hear", "merge", "program", "targets", "", "cpu", "cold", "glop"):
            label = f"{name}_{part}_ms" if part else f"{name}_ms"
            words = {
                "": "merge + program + targets",
                "cpu": "  of CPU time",
                "cold": "program, cold",
                "glop": "GLOP, classes",
            }
            print(
                f"  {words.get(part, part):<28}{figures[label + '_p50']:>9.2f} ms"
                f"{figures[label + '_p99']:>9.2f} ms p99"
            )
        if f"{name}_glop_by_sidecar_ms" in figures:
            print(f"  {'GLOP, flows by sidecar':<28}{figures[name + '_glop_by_sidecar_ms']:>9.0f} ms, once")
        print(
            f"  bound above the program's optimum: {figures[name + '_bound_above_lp_p50']:.3%} median, "
            f"{figures[name + '_bound_above_lp_max']:.3%} at most"
        )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
