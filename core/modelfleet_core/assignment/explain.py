"""Stage assign, the reasons: what limits cost each request of a batch, and which kept it from what it wanted.

In: a problem and its answer. Out: `Reasons`, for all requests at once. Next: `batching`, which notes them
with each decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment import certificate
from modelfleet_core.assignment.problem import AssignmentProblem, FloatArray, IntArray
from modelfleet_core.assignment.result import Assignment


@dataclass(frozen=True, slots=True, eq=False)
class Reasons:
    """n requests, m columns."""

    paid: FloatArray
    """(n, m) weighted quality that a cell pays for the batch's limits, above published prices."""
    limits: tuple[str, ...]
    """Names of limits as in `Assignment.binding`; the first is empty."""
    stop: IntArray
    """(n, m) number of the limit that keeps a request from a cell worth more to it; 0: none. What is not
    eligible, or worth less than what was chosen, has none; nor has what time did not suffice to find."""

    def stopped_by(self, i: int) -> tuple[str, ...]:
        """Return for request i the limit that kept it from each column; empty: none."""
        limits = self.limits
        return tuple([limits[number] for number in self.stop[i].tolist()])


def reasons(problem: AssignmentProblem, answer: Assignment) -> Reasons:
    """Explain a batch by its prices and by what the answer left of each limit."""
    n, m = problem.size
    at, choice = np.arange(n), answer.choice
    slots, rows = certificate.usage(problem, choice)
    price = np.append(answer.prices.rows, 0.0)
    left = np.append(problem.limit - np.array(rows), np.inf)
    with np.errstate(all="ignore"):
        value = (
            problem.weight[:, None] * problem.quality
            - problem.slot_price * problem.service_time
            - problem.money_price * problem.cost
        )
        wanted = problem.eligible & np.isfinite(value) & (value > certificate.worth(problem, choice)[:, None])
        full = wanted & (slots >= problem.free)
        stop = np.where(full, np.arange(1, m + 1), 0)
        paid = np.broadcast_to(answer.prices.slots, (n, m)).copy()
        for family in problem.families:
            paid += (price[family.owner] * family.use).T
            own = np.where(choice >= 0, family.use[np.maximum(choice, 0), at], 0.0)
            short = (family.use > left[family.owner] + own).T & wanted & (stop == 0)
            stop = np.where(short, 1 + m + family.owner[:, None], stop)
    names = (f"slots:{problem.column(j)}" for j in range(m))
    return Reasons(paid, ("", *names, *(row.name for row in problem.rows)), stop)
