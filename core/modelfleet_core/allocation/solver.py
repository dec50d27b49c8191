"""Stage allocate: replicas of every variant, within GPUs and hourly budget, with bound and reasons.

In: an `AllocationProblem`. Out: a `Plan`. Next: `stabilise`, then scale.

The linear relaxation gives prices and a bound. What runs already, less what is idle, is the plan if that
bound leaves too little to gain; otherwise the mixed-integer program gives replicas, and where it gives none
in time, `greedy` does. Plans that start replicas and gain too little by it are not taken. The plan is where
to go; which of its steps fit beside pods that still exist is for scale to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor

from modelfleet_core.allocation import greedy
from modelfleet_core.allocation.limits import Limits, limits, maximums, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program, ProgramAnswer
from modelfleet_core.allocation.reasons import Choice, explain
from modelfleet_core.allocation.relaxation import Relaxed, relax
from modelfleet_core.allocation.result import Plan, Termination
from modelfleet_core.allocation.worth import worth
from modelfleet_core.values import VariantKey

GAP = 0.004
"""Relative gap at which a plan is good enough."""
_SAME_SHED = 0.98
_NO_RATE = 1e-6
_WHOLE = 1e-6
_GAIN = 1e-9
"""Share of all value at stake that counts as none."""
_TRIES = 8
"""Variants that are tried in vain before no more are."""

Counts = dict[VariantKey, int]


@dataclass(frozen=True, slots=True)
class _Candidate:
    replicas: Counts
    objective: float
    shed: float
    bound: float = float("inf")
    optimal: bool = True


class _Search:
    """The programs of one allocation, sharing its time."""

    def __init__(self, problem: AllocationProblem, time_limit: float, gap: float) -> None:
        self.problem = problem
        self.within: Limits = limits(problem)
        self.lower = minimums(self.within)
        self.upper = maximums(self.within)
        self.gap = gap
        self.left = time_limit
        start = worth(problem, self.within)
        self.linear = Program(problem, self.within, start, integer=False)
        self.relaxed: Relaxed = relax(
            problem,
            self.within,
            start,
            self.linear,
            lower=self.lower,
            upper=self.upper,
            time_limit=0.3 * time_limit,
        )
        self.worth = self.relaxed.worth
        self.left -= self.relaxed.seconds

    @property
    def bound(self) -> float:
        """No plan is worth more, as far as the relaxation tells, at the utilisations of `worth`."""
        return self.relaxed.answer.bound if self.relaxed.answer is not None else self.worth.stake

    def bound_of_all(self) -> float:
        """Return what no plan is worth more than, at the utilisations of its own groups.

        The relaxation at those of the largest groups: `1 - beta / sqrt(slots)` grows with them.
        """
        largest = {key: max(count, self.upper[key]) for key, count in self.lower.items()}
        self.linear.weigh(self.worth.carrying(self.problem, self.within, largest))
        answer = self.relaxation(self.upper)
        return self.relaxed.bound if answer is None else min(answer.bound, self.relaxed.bound)

    def relaxation(self, upper: Mapping[VariantKey, int]) -> ProgramAnswer | None:
        """Return the relaxation with other most replicas."""
        self.linear.bound(self.lower, upper)
        return self._timed(self.linear.solve(time_limit=0.3 * self.left), 0.3)

    def value(self, replicas: Counts) -> ProgramAnswer | None:
        """Return what these replicas bring, and the duals beside them."""
        self.linear.bound(replicas, replicas)
        return self._timed(self.linear.solve(time_limit=0.5 * self.left), 0.5)

    def integer(self, begin: Mapping[VariantKey, int], *, share: float) -> _Candidate | None:
        """Return the best whole replicas from the declared minimum up to the maximum."""
        program = Program(self.problem, self.within, self.worth, integer=True)
        program.bound(self.lower, self.upper)
        program.begin_at(begin)
        answer = self._timed(program.solve(time_limit=share * self.left, gap=self.gap), share)
        if answer is None:
            return None
        replicas = {key: max(self.lower[key], round(count)) for key, count in answer.replicas.items()}
        if not self.within.fits(replicas):  # rounding within the solver's tolerance broke a limit
            return None
        return _Candidate(replicas, answer.objective, answer.shed, answer.bound, answer.optimal)

    def _timed(self, answer: ProgramAnswer | None, share: float) -> ProgramAnswer | None:
        self.left = max(0.0, self.left - (share * self.left if answer is None else answer.seconds))
        return answer


def allocate(problem: AllocationProblem, *, time_limit: float, gap: float = GAP) -> Plan:
    """Return a plan within about `time_limit` seconds; it never exceeds pool, stock or hourly budget.

    `objective` and `bound` are weighted quality per second, less the penalty of shed requests, less small
    prices of holding and of starting replicas. The search ends at the relative `gap`, which is that of
    `Plan.search_gap`: it counts each model's slots at one utilisation.
    """
    search = _Search(problem, time_limit, gap)
    calm = _calm(search)
    least = problem.fleet.scaling.minimum_gain * max(0.0, search.bound - search.worth.nothing)
    search_bound = search.bound
    if calm is not None and _little(calm, search.bound, _shed(search), least):
        target, wished, objective = calm.replicas, _wishes(search, calm), calm.objective
        termination = Termination.OPTIMAL
    else:
        found, termination = _search_whole(search, calm)
        search_bound = min(search_bound, found.bound)
        target, wished, objective = found.replicas, found.replicas, found.objective
        if calm is not None and (
            calm.objective >= objective or _little(calm, found.objective, found.shed, least)
        ):
            target, objective = calm.replicas, calm.objective
    bound = search.bound_of_all()
    own = search.worth.carrying(problem, search.within, target)
    search.linear.weigh(own)
    fixed = search.value(
        target
    )  # what it serves and spends, and its duals, at the utilisation of its own groups
    worth_of_it = greedy.value(problem, search.within, own, target) if fixed is None else fixed.objective
    external = 0.0 if fixed is None else fixed.external_spend
    if search.within.budget is not None:  # the program keeps it up to its tolerance
        external = max(0.0, min(external, search.within.budget - search.within.cost(target)))
    relaxed = search.relaxed.answer
    prices = fixed if fixed is not None else relaxed
    choice = Choice(
        minimum=search.lower,
        wished=wished,
        target=target,
        model_prices=prices.model_prices if prices is not None else {},
        external_spend=external,
    )
    message = _shortfall(search)
    return Plan(
        variants=explain(problem, search.within, search.worth, choice),
        objective=worth_of_it,
        bound=max(bound, worth_of_it),
        gap=_gap(worth_of_it, bound),
        search_gap=_gap(objective, search_bound),
        termination=Termination.INFEASIBLE if message else termination,
        message=message,
        hourly_cost=search.within.cost(target) + external,
        gpus=search.within.used(target),
        pool_prices=relaxed.pool_prices if relaxed is not None else dict.fromkeys(search.within.gpus, 0.0),
        budget_price=relaxed.budget_price if relaxed is not None else 0.0,
        flows=search.linear.flows() if fixed is not None else {},
    )


def _calm(search: _Search) -> _Candidate | None:
    """Return the plan that starts nothing: what runs, less what is idle; None: there was no time for it."""
    now = {key: v.now for key, v in search.within.variants.items()}
    most = {key: max(search.lower[key], min(search.upper[key], now[key])) for key in now}
    if most == search.lower:
        worthwhile = search.value(most)
        return None if worthwhile is None else _Candidate(most, worthwhile.objective, worthwhile.shed)
    relaxed = search.relaxation(most)
    if relaxed is None:
        return None
    replicas = {key: min(most[key], ceil(count - _WHOLE)) for key, count in relaxed.replicas.items()}
    if not search.within.fits(replicas):  # pools or budget became smaller than what runs
        replicas = {
            key: max(search.lower[key], floor(count + _WHOLE)) for key, count in relaxed.replicas.items()
        }
    worthwhile = search.value(replicas)
    return None if worthwhile is None else _Candidate(replicas, worthwhile.objective, worthwhile.shed)


def _shed(search: _Search) -> float:
    return search.relaxed.answer.shed if search.relaxed.answer is not None else 0.0


def _little(calm: _Candidate, objective: float, shed: float, least: float) -> bool:
    """Return whether a plan of this value gains too little over `calm` for its moves."""
    return objective - calm.objective <= least and _SAME_SHED * calm.shed <= shed + _NO_RATE


def _wishes(search: _Search, calm: _Candidate) -> Counts:
    """Return `calm` with what the relaxation would start on GPUs and money that are left."""
    relaxed = search.relaxed.answer
    wished = dict(calm.replicas)
    if relaxed is None:
        return wished
    for key, count in calm.replicas.items():
        more = wished | {key: max(count, ceil(relaxed.replicas[key] - _WHOLE))}
        if search.within.fits(more):
            wished = more
    return wished


def _begin(search: _Search, calm: _Candidate | None) -> Counts:
    """Return replicas for the program to begin with."""
    if search.relaxed.answer is None:
        return calm.replicas if calm is not None else search.lower
    return {
        key: max(search.lower[key], floor(count + _WHOLE))
        for key, count in search.relaxed.answer.replicas.items()
    }


def _filled(search: _Search, found: _Candidate) -> _Candidate:
    """Return `found` with what is still worth starting on GPUs and money that it leaves free.

    The program ends at a gap, and within it may pass over few requests that nothing else serves.
    """
    worth, within = search.worth, search.within
    tried: set[VariantKey] = set()
    best = found
    answer = search.value(best.replicas)
    while answer is not None and len(tried) < _TRIES:
        gains = {
            key: answer.model_prices[key.model] * worth.slots[key] - worth.thrift[key] - worth.start[key]
            for key in within.variants.keys() - tried
            if best.replicas[key] < search.upper[key]
            and within.fits(best.replicas | {key: best.replicas[key] + 1})
        }
        key = max(gains, key=lambda key: (gains[key], key), default=None)
        if key is None or gains[key] <= _GAIN * worth.stake:
            break
        tried.add(key)
        more = best.replicas | {key: best.replicas[key] + 1}
        after = search.value(more)
        if after is not None and after.objective > best.objective + _GAIN * worth.stake:
            best = replace(best, replicas=more, objective=after.objective, shed=after.shed)
            answer = after
            tried.clear()
    return best


def _search_whole(search: _Search, calm: _Candidate | None) -> tuple[_Candidate, Termination]:
    """Return the best whole replicas that time allows, and how they were found."""
    found = search.integer(_begin(search, calm), share=0.7)
    if found is not None and found.optimal:
        return _filled(search, found), Termination.OPTIMAL
    rounded = _rounded(search)
    if found is None:
        return rounded, Termination.FALLBACK
    if rounded.objective > found.objective:
        found = replace(rounded, bound=found.bound)
    return found, Termination.FEASIBLE


def _rounded(search: _Search) -> _Candidate:
    """Return the relaxation rounded down and filled up; where that has no time either, greedily."""
    lower = _begin(search, None)
    if not search.within.fits(lower):
        lower = search.lower
    answer = search.value(lower) if search.relaxed.answer is not None else None
    if answer is not None:
        return _filled(search, _Candidate(lower, answer.objective, answer.shed))
    problem, within = search.problem, search.within
    replicas, objective = greedy.allocate(problem, within, search.worth, lower=lower, upper=search.upper)
    if search.relaxed.answer is None:  # so far every group counted as if it were as large as it can be
        search.worth = search.worth.carrying(problem, within, replicas)
        objective = greedy.value(problem, within, search.worth, replicas)
    return _Candidate(replicas, objective, float("inf"))


def _gap(objective: float, bound: float) -> float:
    return max(0.0, bound - objective) / max(1e-9, abs(bound))


def _shortfall(search: _Search) -> str:
    """Return what is wrong when the declared minimums do not fit; empty when they do."""
    short = [
        f"{key} gets {search.lower[key]} of at least {v.placement.replicas.min}"
        for key, v in search.within.variants.items()
        if search.lower[key] < v.placement.replicas.min
    ]
    if not short:
        return ""
    return (
        f"the declared minimum replicas do not fit the pools and the hourly budget: {', '.join(short)}; "
        "lower replicas.min, or raise the pool's limit, its nodes or the budget"
    )
