"""The manifests of a simulated fleet, as the values that operator and sidecars parse them to.

In: a `Scenario`. Out: its `Fleet`, `Policy` and documents. Next: `operator_node` publishes them.
"""

from __future__ import annotations

from modelfleet_core.catalog import (
    Fleet,
    Latency,
    Model,
    Pool,
    PoolPlacement,
    Pricing,
    Quality,
    Replicas,
    ScaleTarget,
    Scaling,
    ServicePort,
    Variant,
)
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import Batching, Budget, Limits, Period, PodSelector, Policy, Tier
from modelfleet_core.values import ModelName, NanoUsd, ObjectKey, PoolName, TaskName, TierName, VariantKey

from modelfleet_lab.simulate import scenario as spec
from modelfleet_lab.simulate.scenario import TASKS, Scenario
from modelfleet_lab.simulate.workload import MOST_TOKENS, PREMIUM_WEIGHT

FLEET = ObjectKey("ml", "fleet")
POLICY = ObjectKey("ml", "policy")
PREMIUM = TierName("premium")
STANDARD = TierName("standard")
_FEMTO_PER_TOKEN = 1e9
"""1 USD per million tokens."""
DOCUMENT = Document("1", b"")
"""Parsed already: sidecars of a simulation are given the values."""


def variant_key(model: spec.Model) -> VariantKey:
    return VariantKey(ModelName(model.name), "gpu")


def fleet_of(scenario: Scenario) -> Fleet:
    slots = scenario.slots_by_model()
    models = tuple(_model(model, scenario, slots[model.name]) for model in scenario.models)
    gpus = sum(-(-slots[model.name] // scenario.concurrency) for model in scenario.models)
    pool = Pool(PoolName("gpus"), "nvidia.com/gpu", {}, gpus, 2.0)
    return Fleet(FLEET, (pool,), models, None, Scaling(15.0, 60.0, 1.0))


def _model(model: spec.Model, scenario: Scenario, slots: int) -> Model:
    usd = model.usd_per_million
    placement = PoolPlacement(
        pool=PoolName("gpus"),
        gpus=1,
        target=ScaleTarget("Deployment", model.name),
        service=ServicePort(model.name, "http", "http"),
        replicas=Replicas(1, max(1, scenario.slots)) if scenario.scaling else Replicas(0, scenario.slots),
        startup=scenario.startup,
    )
    quality = dict(zip(map(TaskName, TASKS), model.quality, strict=True))
    return Model(
        name=ModelName(model.name),
        served_name=model.name,
        quality=Quality(sum(model.quality) / len(model.quality), quality),
        context_tokens=None,
        pricing=Pricing(round(usd * _FEMTO_PER_TOKEN / 4), round(usd * _FEMTO_PER_TOKEN)),
        variants=(
            Variant(
                key=variant_key(model),
                placement=placement,
                concurrency=min(scenario.concurrency, slots),
                latency=Latency(model.first_token, model.per_token),
            ),
        ),
    )


def policy_of(scenario: Scenario, budget: NanoUsd | None) -> Policy:
    """Return the policy; `budget`: the period's limit."""
    return Policy(
        key=POLICY,
        fleet=FLEET,
        pod_selector=PodSelector({}),
        batching=Batching(scenario.max_size, scenario.max_wait),
        budget=Budget(budget, Period.HOUR) if budget is not None else None,
        limits=Limits(MOST_TOKENS, scenario.deadline, 1 << 20),
        tiers=(
            Tier(PREMIUM, PREMIUM_WEIGHT, {"x-tier": "premium"}),
            Tier(STANDARD, 1.0, {}),
        ),
        shed_penalty=scenario.shed_penalty,
    )
