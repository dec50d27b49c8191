"""What a simulated sidecar expects of each request, in the values of the core.

In: a `Workload`, the fleet and the policy. Out: a `Candidate` for each request. Next: the deciders.
"""

from __future__ import annotations

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.catalog import Fleet
from modelfleet_core.leasing.accounts import accounts_of, charges
from modelfleet_core.policy import Policy
from modelfleet_core.values import TaskName, VariantKey

from modelfleet_lab.simulate.scenario import TASKS
from modelfleet_lab.simulate.workload import INPUT_TOKENS, MOST_TOKENS, Workload


class Offers:
    """All requests of a run, by their number in the workload."""

    def __init__(self, load: Workload, fleet: Fleet, policy: Policy) -> None:
        self.fleet = fleet
        self.policy = policy
        self.variants: tuple[VariantKey, ...] = tuple(variant.key for variant in fleet.variants())
        self._load = load
        self._reserve = tuple(model.pricing.cost(INPUT_TOKENS, MOST_TOKENS) for model in fleet.models)
        self._possible = ("",) * len(self.variants)
        accounts = accounts_of(policy)
        self._charges = tuple(
            charges(accounts, model.name, None, reserve)
            for model, reserve in zip(fleet.models, self._reserve, strict=True)
        )

    def task(self, request: int) -> TaskName:
        return TaskName(TASKS[self._load.task[request]])

    def of(self, request: int) -> Candidate:
        load = self._load
        weight = float(load.weight[request])
        return Candidate(
            variants=self.variants,
            tier=next(tier.name for tier in self.policy.tiers if tier.weight == weight),
            weight=weight,
            shed_penalty=self.policy.shed_penalty * weight,
            arrived=float(load.arrived[request]),
            deadline=float(load.deadline[request]),
            longest=self.policy.limits.max_request,
            quality=tuple(load.predicted[request].tolist()),
            cost=tuple(load.cost[request].tolist()),
            service_time=tuple(load.service[request].tolist()),
            reserve=self._reserve,
            excluded_by=self._possible,
            charges=self._charges,
            caller=str(load.tenant[request]),
        )
