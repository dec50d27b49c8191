"""Stage allocate, the linear relaxation: prices, a bound, and the coefficients that rest on the plan's size.

In: a linear `Program` over a problem. Out: `Relaxed`. Next: `solver` looks for whole replicas.

Usable slots are `n - beta sqrt(n)`, convex in the n slots of a model: a linear program can not hold them for
small and large groups alike, and their concave hull is up to 10 % too high for small ones. For the search
each model has the utilisation of the group that the relaxation itself gives it, solved for the largest groups
first, then for the groups found. What no plan of any sizes exceeds is told by the largest groups alone: a
smaller group never uses a larger share of its slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program, ProgramAnswer
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.values import VariantKey

_ROUNDS = 3
_ALIKE = 1e-3
"""Relative difference of coefficients that changes no plan."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    worth: Worth
    """Of the last program that was solved in time."""
    answer: ProgramAnswer | None
    """None: not even the relaxation was solved in time."""
    bound: float
    """No plan is worth more, whatever the sizes of its groups; starts may be counted too cheaply."""
    seconds: float


def relax(
    problem: AllocationProblem,
    within: Limits,
    worth: Worth,
    linear: Program,
    *,
    lower: Mapping[VariantKey, int],
    upper: Mapping[VariantKey, int],
    time_limit: float,
) -> Relaxed:
    """Return the relaxation with utilisation and prices of starts settled, within `time_limit` seconds.

    `worth` is that of the largest groups.
    """
    linear.bound(lower, upper)
    answer = linear.solve(time_limit=time_limit)
    spent = time_limit if answer is None else answer.seconds
    bound = worth.stake if answer is None else answer.bound
    for _ in range(_ROUNDS):
        if answer is None:
            break
        settled = worth.carrying(problem, within, answer.replicas).moving(
            within, answer.pool_prices, answer.budget_price
        )
        if _alike(settled.slots, worth.slots) and _alike(settled.start, worth.start):
            break
        linear.weigh(settled)
        again = linear.solve(time_limit=max(0.0, time_limit - spent))
        if again is None:
            linear.weigh(worth)
            break
        worth, answer, spent = settled, again, spent + again.seconds
    return Relaxed(worth, answer, bound, spent)


def _alike(one: Mapping[VariantKey, float], other: Mapping[VariantKey, float]) -> bool:
    return all(abs(value - other[key]) <= _ALIKE * abs(other[key]) for key, value in one.items())
