"""Allocation problems as large fleets pose them, of every kind that the solver must master."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.limits import limits, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.catalog import Model, PoolPlacement, Variant
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.values import ModelName, ObjectKey, PoolName, TaskName, TierName, VariantKey
from ortools.linear_solver import pywraplp

from support.fleets import external, fleet, model, on_pool, pool

KINDS = ("tight", "loose", "poor", "tied", "moving", "crowded", "policies", "minimums")
"""GPUs scarce; plenty; the hourly budget binds; models and GPUs alike; from a plan for other demand; far more
demand than anything can serve; policies' own budgets bind; declared minimums that take much of the GPUs."""


def large_fleet(
    seed: int, kind: str, *, models: int = 50, pools: int = 8, classes: int = 64
) -> AllocationProblem:
    """Return a problem of `kind`; every tenth model is external, others have up to three variants."""
    rng = random.Random(f"{seed}/{kind}")
    speed = [1.0 if kind == "tied" else rng.uniform(0.5, 2.0) for _ in range(pools)]
    size = {"loose": 120, "tight": 40, "crowded": 24}.get(kind, 48)
    gpu_pools = tuple(
        pool(
            f"p{i}",
            limit=size if kind == "tied" else rng.randint(size // 2, size),
            hourly_cost=2.0 if kind == "tied" else round(0.8 + 1.6 * speed[i], 2),
        )
        for i in range(pools)
    )
    strength, built = [], []
    for j in range(models):
        strength.append(0.6 if kind == "tied" and j % 2 else rng.uniform(0.25, 0.9))
        built.append(_model(rng, kind, j, strength[j], pools, speed))
    policies = [ObjectKey("ml", f"team{i}") for i in range(6 if kind == "policies" else 2)]
    rate = {"loose": 2.0, "crowded": 25.0}.get(kind, 8.0)
    demand = []
    for k in range(classes):
        hardness = rng.uniform(0.0, 0.6)
        length = rng.lognormvariate(5.3, 0.6)
        weight = rng.choice([1.0, 1.0, 1.0, 2.0, 4.0])
        offers = {}
        for j, m in enumerate(built):
            if rng.random() < 0.08:
                continue  # too long for it, or not allowed
            noise = 0.0 if kind == "tied" else rng.gauss(0.0, 0.08)
            quality = min(1.0, max(0.0, strength[j] + 0.1 - hardness * (1.0 - strength[j]) + noise))
            per_token = min(v.latency.per_output_token for v in m.variants)
            costly = (4.0 if j % 10 == 9 else 0.5) * strength[j] ** 3
            offers[m.name] = ModelOffer(quality, 1e-6 * length * 4.0 * costly, 0.1 + per_token * length)
        demand.append(
            DemandClass(
                policy=rng.choice(policies),
                tier=TierName(f"w{weight:g}"),
                task=TaskName(f"t{k}"),
                weight=weight,
                shed_penalty=0.5 * weight,
                rate=1.0 if kind == "tied" else rate * rng.lognormvariate(0.0, 1.0),
                offers=offers,
            )
        )
    it = fleet(*built, pools=gpu_pools)
    everything = sum(p.limit * p.hourly_cost for p in gpu_pools)
    if kind in ("poor", "policies", "moving"):
        share = 0.3 if kind == "poor" else 0.7
        it = fleet(*built, pools=gpu_pools, hourly_budget=round(share * everything, 2))
    budgets = {}
    if kind == "policies":
        for policy in policies:
            spend = sum(
                d.rate * max(o.cost_usd for o in d.offers.values()) for d in demand if d.policy == policy
            )
            budgets[policy] = spend * rng.choice([0.1, 0.3, 0.6])
    now = {} if kind in ("tight", "loose", "tied") else _running(rng, it.variants())
    return AllocationProblem(
        fleet=it,
        classes=tuple(demand),
        current=now,
        occupied={key: count + rng.choice([0, 0, 0, 1]) for key, count in now.items()},
        stock={p.name: p.limit - (rng.randint(0, 3) if kind == "crowded" else 0) for p in gpu_pools},
        budget_rate=budgets,
    )


def _model(rng: random.Random, kind: str, j: int, strength: float, pools: int, speed: list[float]) -> Model:
    name = f"m{j:02d}"
    if j % 10 == 9:
        return model(external(name, concurrency=rng.choice([16, 32, 64])), quality=strength)
    variants: list[Variant] = []
    chosen = rng.sample(range(pools), min(pools, rng.choice([1, 1, 2, 3])))
    gpus = rng.choice([1, 2, 4]) if kind == "tied" else (1, 2, 4, 8)[min(3, int(strength * 4.2))]
    for p in chosen:
        least = rng.choice([0, 0, 1]) if kind == "minimums" else 0
        variants.append(
            on_pool(
                name,
                variant=f"p{p}",
                pool=f"p{p}",
                gpus=gpus,
                concurrency=rng.choice([8, 16, 32]),
                replicas=(least, rng.choice([4, 8, 16])),
                startup=rng.choice([60.0, 240.0, 600.0]),
                per_token=(0.006 + 0.02 * strength) / speed[p],
            )
        )
    return model(*variants, quality=strength)


def _running(rng: random.Random, variants: tuple[Variant, ...]) -> dict[VariantKey, int]:
    """Return replicas as a plan for other demand left them, within every pool."""
    left: dict[PoolName, int] = {}
    running = {}
    for variant in rng.sample(variants, len(variants)):
        place = variant.placement
        if isinstance(place, PoolPlacement):
            free = left.setdefault(place.pool, 24)
            count = min(rng.choice([0, 0, 1, 2]), free // place.gpus, place.replicas.max)
            running[variant.key] = max(count, place.replicas.min)
            left[place.pool] = max(0, free - count * place.gpus)
    return running


def value_of(problem: AllocationProblem, worth: Worth, replicas: Mapping[VariantKey, int]) -> float:
    """Return what a plan is worth, by a linear program over its flows alone (HiGHS)."""
    return _flows(problem, worth, replicas)[0]


def served(problem: AllocationProblem, worth: Worth, replicas: Mapping[VariantKey, int]) -> float:
    """Return the requests per second that the best flows of a plan answer."""
    return _flows(problem, worth, replicas)[1]


def _flows(
    problem: AllocationProblem, worth: Worth, replicas: Mapping[VariantKey, int]
) -> tuple[float, float]:
    """Return the best value of flows, less the prices of replicas, and the requests per second answered."""
    within = limits(problem)
    solver = pywraplp.Solver.CreateSolver("HIGHS_LP")
    flows = {
        (k, name, side): solver.NumVar(0.0, solver.infinity(), "")
        for k, demand in enumerate(problem.classes)
        for name in demand.offers
        for side in ("pool", "elsewhere")
    }

    def total(wanted: Callable[[int, ModelName, str], float]) -> pywraplp.LinearExpr:
        return solver.Sum(
            [flow * wanted(*cell) for cell, flow in flows.items()] or [solver.NumVar(0.0, 0.0, "")]
        )

    def offer(k: int, name: ModelName) -> ModelOffer:
        return problem.classes[k].offers[name]

    for number, demand in enumerate(problem.classes):
        solver.Add(total(lambda k, name, side, number=number: k == number) <= demand.rate)
    for model_ in problem.fleet.models:
        own = sum(worth.slots[key] * count for key, count in replicas.items() if key.model == model_.name)
        slots = {"pool": own, "elsewhere": worth.external.get(model_.name, 0.0)}
        for where, most in slots.items():

            def busy(
                k: int, name: ModelName, side: str, this: tuple[ModelName, str] = (model_.name, where)
            ) -> float:
                return offer(k, name).service_time if (name, side) == this else 0.0

            solver.Add(total(busy) <= most)
    if within.budget is not None:
        spend = total(lambda k, name, side: 3600.0 * offer(k, name).cost_usd if side == "elsewhere" else 0.0)
        solver.Add(spend <= within.budget - within.cost(replicas))
    for policy, rate in problem.budget_rate.items():
        solver.Add(
            total(
                lambda k, name, side, policy=policy: (
                    offer(k, name).cost_usd if problem.classes[k].policy == policy else 0.0
                )
            )
            <= max(0.0, rate)
        )
    solver.Maximize(
        total(
            lambda k, name, side: (
                problem.classes[k].weight * offer(k, name).quality + problem.classes[k].shed_penalty
            )
        )
    )
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise AssertionError("HiGHS found no flows for a plan that fits")
    prices = sum(
        worth.thrift[key] * count + worth.start[key] * max(0, count - within.variants[key].now)
        for key, count in replicas.items()
    )
    penalty = sum(demand.shed_penalty * demand.rate for demand in problem.classes)
    answered = sum(flow.solution_value() for flow in flows.values())
    return solver.Objective().Value() - penalty - prices, answered


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    objective: float
    bound: float


def plain_program(
    problem: AllocationProblem, worth: Worth, *, solver: str, gap: float, time_limit: float
) -> PlainAnswer:
    """Solve the program as the design writes it, with no rows, bounds or hints of our own."""
    within = limits(problem)
    program = pywraplp.Solver.CreateSolver(solver)
    program.SetTimeLimit(int(time_limit * 1000))
    infinity = program.infinity()
    objective = program.Objective()
    objective.SetMaximization()
    unit = worth.stake / 1000.0
    gpus = {pool: program.Constraint(-infinity, float(count)) for pool, count in within.gpus.items()}
    budget = program.Constraint(-infinity, infinity if within.budget is None else within.budget)
    busy = {m.name: program.Constraint(-infinity, 0.0) for m in problem.fleet.models}
    outside = {name: program.Constraint(-infinity, slots) for name, slots in worth.external.items()}
    money = {policy: program.Constraint(-infinity, rate) for policy, rate in problem.budget_rate.items()}
    lower = minimums(within)
    for key, v in within.variants.items():
        count = program.IntVar(lower[key], max(lower[key], v.placement.replicas.max), "")
        started = program.NumVar(0.0, infinity, "")
        objective.SetCoefficient(count, -worth.thrift[key] / unit)
        objective.SetCoefficient(started, -worth.start[key] / unit)
        gpus[v.placement.pool].SetCoefficient(count, float(v.placement.gpus))
        budget.SetCoefficient(count, v.hourly)
        busy[key.model].SetCoefficient(count, -worth.slots[key])
        beyond = program.Constraint(-float(v.now), infinity)
        beyond.SetCoefficient(started, 1.0)
        beyond.SetCoefficient(count, -1.0)
    for demand in problem.classes:
        arrivals = program.Constraint(demand.rate, demand.rate)
        shed = program.NumVar(0.0, infinity, "")
        arrivals.SetCoefficient(shed, 1.0)
        objective.SetCoefficient(shed, -demand.shed_penalty / unit)
        for name, offer in demand.offers.items():
            side = outside if name in outside else busy
            flow = program.NumVar(0.0, infinity, "")
            arrivals.SetCoefficient(flow, 1.0)
            objective.SetCoefficient(flow, demand.weight * offer.quality / unit)
            side[name].SetCoefficient(flow, offer.service_time)
            if side is outside:
                budget.SetCoefficient(flow, 3600.0 * offer.cost_usd)
            if demand.policy in money:
                money[demand.policy].SetCoefficient(flow, offer.cost_usd)
    parameters = pywraplp.MPSolverParameters()
    parameters.SetDoubleParam(pywraplp.MPSolverParameters.RELATIVE_MIP_GAP, gap)
    if program.Solve(parameters) not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return PlainAnswer(worth.nothing, worth.stake)
    return PlainAnswer(objective.Value() * unit, objective.BestBound() * unit)
