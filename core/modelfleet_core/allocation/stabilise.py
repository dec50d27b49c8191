"""Stage scale, patience: replicas are given up only after they have not been needed for a while.

In: a `Plan`, its problem and the time. Out: the plan to apply and the next `Stabiliser`. Next: `/scale`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from modelfleet_core.allocation.limits import limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.result import Plan, Reason, VariantPlan
from modelfleet_core.values import VariantKey

History = tuple[tuple[float, int], ...]
"""(time, replicas wanted), oldest first."""


@dataclass(frozen=True, slots=True)
class Stabiliser:
    """What recent plans wanted. Of them the highest counts for scaling down; scaling up is not held.

    After a start, what runs counts as wanted until the window has passed, so a restart scales nothing down.
    A hold never keeps a plan over its pools or its budget: where it would, it ends.
    """

    window: float
    """Seconds."""
    wanted: Mapping[VariantKey, History] = field(default_factory=dict)

    def settle(self, plan: Plan, problem: AllocationProblem, now: float) -> tuple[Stabiliser, Plan]:
        """Return the next state and `plan` with scale-downs held while a recent plan wanted more."""
        within = limits(problem)
        wanted: dict[VariantKey, History] = {}
        held: dict[VariantKey, int] = {}
        for key, variant in plan.variants.items():
            current = within.variants[key].now
            before = self.wanted.get(key, ((now, current),))
            # Only what is higher than everything after it can still be the highest: the rest is forgotten.
            recent = (entry for entry in before if entry[0] > now - self.window)
            wanted[key] = (*(e for e in recent if e[1] > variant.replicas), (now, variant.replicas))
            high = wanted[key][0][1]
            if variant.replicas < min(current, high):
                held[key] = min(current, high)
        external = plan.hourly_cost - within.cost({key: v.replicas for key, v in plan.variants.items()})
        replicas = {key: held.get(key, variant.replicas) for key, variant in plan.variants.items()}
        over = within.over(replicas)
        for key in tuple(held):
            if within.variants[key].placement.pool in over:
                replicas[key] = plan.variants[key].replicas
                del held[key]
        if not within.affordable(replicas, external):
            replicas = {key: variant.replicas for key, variant in plan.variants.items()}
            held = {}
        variants = dict(plan.variants)
        for key, count in held.items():
            less = plan.variants[key].replicas
            variants[key] = VariantPlan(
                replicas=count,
                reason=Reason.HELD_BY_STABILISATION,
                message=f"{count} replicas: {less} would do, but {count} were wanted "
                f"within the last {self.window:g} s",
            )
        settled = replace(
            plan,
            variants=variants,
            hourly_cost=within.cost(replicas) + external,
            gpus=within.used(replicas),
        )
        return Stabiliser(window=self.window, wanted=wanted), settled
