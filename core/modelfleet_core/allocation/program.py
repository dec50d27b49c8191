"""Stage allocate, the program in OR-tools: mixed-integer, or linear for duals.

In: an `AllocationProblem`, its coefficients, bounds of replicas, seconds. Out: replicas, bound, duals.
Next: `relaxation` and `solver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ortools.linear_solver import pywraplp

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.values import ModelName, PoolName, VariantKey

SECONDS_PER_HOUR = 3600.0
_SCIP = """presolving/maxrounds = 0
separating/maxroundsroot = 3
separating/maxrounds = 0
"""
"""The rows below leave presolving nothing to find and cuts little: without them it takes half the time."""


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    replicas: dict[VariantKey, float]
    objective: float
    bound: float
    optimal: bool
    """False: time was up, and `objective` may be lower than it could be."""
    external_spend: float
    """USD per hour."""
    shed: float
    """Requests per second, of all classes."""
    model_prices: dict[ModelName, float]
    """Value per busy slot of the model's pool variants; empty for integer programs, as the next two."""
    pool_prices: dict[PoolName, float]
    budget_price: float
    seconds: float


class Program:
    """One program over a problem, to be solved again with other coefficients and bounds.

    Flows stay by model, replicas are by variant. Replicas of g GPUs leave `limit mod g` GPUs of a pool
    unused, so each pool also has the rows `sum_v floor(gpus_v / g) I_v <= floor(limit / g)`
    (Chvatal-Gomory, for every size g in the pool): without them the relaxation can be 5 % off.
    """

    def __init__(self, problem: AllocationProblem, within: Limits, worth: Worth, *, integer: bool) -> None:
        self._problem = problem
        self._within = within
        self.integer = integer
        self._solver = solver = pywraplp.Solver.CreateSolver("SCIP" if integer else "GLOP")
        if integer:
            solver.SetSolverSpecificParametersAsString(_SCIP)
        infinity = solver.infinity()
        self._objective = objective = solver.Objective()
        objective.SetMaximization()
        self._unit = unit = worth.stake / 1000.0  # of the objective: solvers' tolerances are absolute
        self._gpus = {
            pool: [
                (size, solver.Constraint(-infinity, float(count // size)))
                for size in sorted({1, *_sizes(within, pool)})
            ]
            for pool, count in within.gpus.items()
        }
        self._budget = solver.Constraint(-infinity, infinity if within.budget is None else within.budget)
        self._busy = {key.model: solver.Constraint(-infinity, 0.0) for key in within.variants}
        outside = {name: solver.Constraint(-infinity, slots) for name, slots in worth.external.items()}
        rates = {name: solver.Constraint(0.0, rate) for name, rate in worth.external_rate.items()}
        money = {
            policy: solver.Constraint(-infinity, max(0.0, rate))
            for policy, rate in problem.budget_rate.items()
        }
        self._counts = {}
        self._starts = {}
        for key, v in within.variants.items():
            most = float(v.placement.replicas.max)
            count = solver.IntVar(0.0, most, "") if integer else solver.NumVar(0.0, most, "")
            self._counts[key] = count
            for size, row in self._gpus.get(v.placement.pool, ()):
                if v.placement.gpus >= size:
                    row.SetCoefficient(count, float(v.placement.gpus // size))
            self._budget.SetCoefficient(count, v.hourly)
            self._starts[key] = started = solver.NumVar(0.0, infinity, "")
            beyond = solver.Constraint(-float(v.now), infinity)  # started >= count - now
            beyond.SetCoefficient(started, 1.0)
            beyond.SetCoefficient(count, -1.0)
        self._sheds: list[pywraplp.Variable] = []
        self._flows: dict[tuple[int, ModelName, bool], pywraplp.Variable] = {}
        for k, demand in enumerate(problem.classes):
            arrivals = solver.Constraint(demand.rate, demand.rate)
            shed = solver.NumVar(0.0, infinity, "")
            self._sheds.append(shed)
            arrivals.SetCoefficient(shed, 1.0)
            objective.SetCoefficient(shed, -demand.shed_penalty / unit)
            for name, offer in demand.offers.items():
                for side in (self._busy, outside):
                    if name not in side:
                        continue
                    flow = solver.NumVar(0.0, infinity, "")
                    self._flows[k, name, side is outside] = flow
                    arrivals.SetCoefficient(flow, 1.0)
                    objective.SetCoefficient(flow, demand.weight * offer.quality / unit)
                    side[name].SetCoefficient(flow, offer.service_time)
                    if side is outside:
                        if name in rates:
                            rates[name].SetCoefficient(flow, 1.0)
                        self._budget.SetCoefficient(flow, SECONDS_PER_HOUR * offer.cost_usd)
                    if demand.policy in money:
                        money[demand.policy].SetCoefficient(flow, offer.cost_usd)
        self._told = 0.0
        self.weigh(worth)

    def weigh(self, worth: Worth) -> None:
        """Take over other coefficients of replicas: slots, thrift and start."""
        for key, count in self._counts.items():
            self._objective.SetCoefficient(count, -worth.thrift[key] / self._unit)
            self._objective.SetCoefficient(self._starts[key], -worth.start[key] / self._unit)
            self._busy[key.model].SetCoefficient(count, -worth.slots[key])

    def bound(self, lower: Mapping[VariantKey, float], upper: Mapping[VariantKey, float]) -> None:
        """Let replicas vary from `lower` to `upper`; where these cross, `lower` holds."""
        for key, count in self._counts.items():
            count.SetBounds(float(lower[key]), float(max(lower[key], upper[key])))

    def begin_at(self, replicas: Mapping[VariantKey, int]) -> None:
        """Try these replicas first."""
        self._solver.SetHint(
            [self._counts[key] for key in replicas], [float(count) for count in replicas.values()]
        )

    def solve(self, *, time_limit: float, gap: float = 0.0) -> ProgramAnswer | None:
        """Solve within `time_limit` seconds, to a relative `gap`; None: no answer in time, or none exists."""
        solver = self._solver
        solver.SetTimeLimit(max(1, int(time_limit * 1000)))
        parameters = pywraplp.MPSolverParameters()
        parameters.SetDoubleParam(pywraplp.MPSolverParameters.RELATIVE_MIP_GAP, gap)
        status = solver.Solve(parameters)
        if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
            return None
        optimal = status == pywraplp.Solver.OPTIMAL
        if not (self.integer or optimal):
            return None  # a linear program cut short has no duals, and its value is no bound
        linear = not self.integer
        seconds, self._told = solver.wall_time() / 1000.0 - self._told, solver.wall_time() / 1000.0
        value = self._objective.Value()
        return ProgramAnswer(
            replicas={key: count.solution_value() for key, count in self._counts.items()},
            objective=value * self._unit,
            bound=(value if linear else self._objective.BestBound()) * self._unit,
            optimal=optimal,
            external_spend=self._external_spend(),
            shed=sum(shed.solution_value() for shed in self._sheds),
            model_prices={name: self._dual(row) for name, row in self._busy.items()} if linear else {},
            pool_prices={
                pool: sum(self._dual(row) / size for size, row in rows) for pool, rows in self._gpus.items()
            }
            if linear
            else {},
            budget_price=self._dual(self._budget) if linear else 0.0,
            seconds=seconds,
        )

    def flows(self) -> dict[tuple[int, ModelName], float]:
        """Return the requests per second of each class to each model, as last solved."""
        total: dict[tuple[int, ModelName], float] = {}
        for (k, name, _), flow in self._flows.items():
            if (rate := flow.solution_value()) > 0:
                total[k, name] = total.get((k, name), 0.0) + rate
        return total

    def _external_spend(self) -> float:
        spend = 0.0
        for (k, name, outside), flow in self._flows.items():
            if outside:
                spend += self._problem.classes[k].offers[name].cost_usd * flow.solution_value()
        return SECONDS_PER_HOUR * spend

    def _dual(self, row: pywraplp.Constraint) -> float:
        value: float = row.dual_value()
        return max(0.0, value * self._unit)


def _sizes(within: Limits, pool: PoolName) -> set[int]:
    """Return the GPUs per replica of the pool's variants."""
    return {v.placement.gpus for v in within.variants.values() if v.placement.pool == pool}
