"""Stage allocate: replicas of every variant, within GPUs and hourly budget, with bound and reasons.

In: an `AllocationProblem`. Out: a `Plan`. Next: `stabilise`, then scale.

The linear relaxation gives prices and a bound, the mixed-integer program replicas; where it gives none in
time, `greedy` does. Starts that gain too little are left out. The plan is where to go; which of its steps fit
beside pods that still exist is for scale to say.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.allocation import greedy, program
from modelfleet_core.allocation.limits import Limits, limits, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import ProgramAnswer
from modelfleet_core.allocation.reasons import Choice, explain
from modelfleet_core.allocation.result import Plan, Termination
from modelfleet_core.allocation.worth import Worth, worth
from modelfleet_core.values import VariantKey

_MINIMUM_GAIN = 0.005
"""Share of all value at stake below which nothing is started, unless more requests are answered by it."""
_SAME_SHED = 0.98
_NO_RATE = 1e-6


class _Solve:
    """Programs of one allocation, sharing its time."""

    def __init__(self, problem: AllocationProblem, time_limit: float) -> None:
        self.problem = problem
        self.within: Limits = limits(problem)
        self.worth: Worth = worth(problem, self.within)
        self.lower = minimums(self.within)
        self.upper = {
            key: min(
                v.placement.replicas.max,
                self.within.gpus.get(v.placement.pool, 0) // max(1, v.placement.gpus),
            )
            for key, v in self.within.variants.items()
        }
        self.left = time_limit

    def solve(
        self, lower: Mapping[VariantKey, int], upper: Mapping[VariantKey, int], *, integer: bool, share: float
    ) -> ProgramAnswer | None:
        answer = program.solve(
            self.problem,
            self.within,
            self.worth,
            lower=lower,
            upper=upper,
            integer=integer,
            time_limit=share * self.left,
        )
        self.left = max(0.0, self.left - (share * self.left if answer is None else answer.seconds))
        return answer

    def whole(self, answer: ProgramAnswer) -> dict[VariantKey, int] | None:
        """Return its replicas as whole numbers; None if rounding within its tolerance broke a limit."""
        replicas = {key: max(self.lower[key], round(count)) for key, count in answer.replicas.items()}
        return replicas if self.within.fits(replicas) else None


def allocate(problem: AllocationProblem, *, time_limit: float) -> Plan:
    """Return a plan within about `time_limit` seconds; it never exceeds pool, stock or hourly budget.

    `objective` and `bound` are weighted quality per second, less the penalty of shed requests, less small
    prices of holding and of starting replicas.
    """
    run = _Solve(problem, time_limit)
    relaxed = run.solve(run.lower, run.upper, integer=False, share=0.2)
    found = run.solve(run.lower, run.upper, integer=True, share=0.6)
    wished = run.whole(found) if found is not None else None
    bound = min([answer.bound for answer in (relaxed, found) if answer is not None], default=run.worth.stake)
    if found is None or wished is None:
        wished, objective = greedy.allocate(problem, run.within, run.worth, lower=run.lower, upper=run.upper)
        target, termination = wished, Termination.FALLBACK
    else:
        objective = found.objective
        termination = Termination.OPTIMAL if found.optimal else Termination.FEASIBLE
        target = wished
        calmer = _without_small_starts(run, wished, found)
        if calmer is not None:
            target, objective = calmer
    external = found.external_spend if found is not None else 0.0
    prices = relaxed.model_prices if relaxed is not None else {}
    fixed = run.solve(target, target, integer=False, share=0.9)
    if fixed is not None:
        external = fixed.external_spend
    if run.within.budget is not None:  # the program keeps it up to its tolerance
        external = max(0.0, min(external, run.within.budget - run.within.cost(target)))
    choice = Choice(
        minimum=run.lower,
        wished=wished,
        target=target,
        model_prices=fixed.model_prices if fixed is not None else prices,
        external_spend=external,
    )
    message = _shortfall(run)
    return Plan(
        variants=explain(problem, run.within, run.worth, choice),
        objective=objective,
        bound=max(bound, objective),
        gap=max(0.0, bound - objective) / max(1e-9, abs(bound)),
        termination=Termination.INFEASIBLE if message else termination,
        message=message,
        hourly_cost=run.within.cost(target) + external,
        gpus=run.within.used(target),
        pool_prices=relaxed.pool_prices if relaxed is not None else dict.fromkeys(run.within.gpus, 0.0),
        budget_price=relaxed.budget_price if relaxed is not None else 0.0,
    )


def _without_small_starts(
    run: _Solve, wished: Mapping[VariantKey, int], found: ProgramAnswer
) -> tuple[dict[VariantKey, int], float] | None:
    """Return the best target that starts nothing, and its value, if starting gains too little; else None."""
    now = {key: max(run.lower[key], v.now) for key, v in run.within.variants.items()}
    if all(wished[key] <= now[key] for key in wished):
        return None
    calm = run.solve(run.lower, {key: min(run.upper[key], now[key]) for key in now}, integer=True, share=0.8)
    replicas = run.whole(calm) if calm is not None else None
    if calm is None or replicas is None:
        return None
    small = found.objective - calm.objective < _MINIMUM_GAIN * run.worth.stake
    answers_as_many = _SAME_SHED * calm.shed <= found.shed + _NO_RATE
    return (replicas, calm.objective) if small and answers_as_many else None


def _shortfall(run: _Solve) -> str:
    """Return what is wrong when the declared minimums do not fit; empty when they do."""
    short = [
        f"{key} gets {run.lower[key]} of at least {v.placement.replicas.min}"
        for key, v in run.within.variants.items()
        if run.lower[key] < v.placement.replicas.min
    ]
    if not short:
        return ""
    return (
        f"the declared minimum replicas do not fit the pools and the hourly budget: {', '.join(short)}; "
        "lower replicas.min, or raise the pool's limit, its nodes or the budget"
    )
