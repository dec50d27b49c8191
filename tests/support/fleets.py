"""Builders of fleets and demand for the programs: a line per model, sensible values for the rest."""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.catalog import (
    ExternalPlacement,
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
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.values import EndpointUrl, ModelName, ObjectKey, PoolName, TaskName, TierName, VariantKey

POLICY = ObjectKey("ml", "assistant")


def key(model: str, variant: str = "gpu") -> VariantKey:
    return VariantKey(ModelName(model), variant)


def pool(name: str = "h100", limit: int = 8, hourly_cost: float = 3.0) -> Pool:
    return Pool(PoolName(name), "nvidia.com/gpu", {"gpu": name}, limit, hourly_cost)


def on_pool(
    model: str,
    *,
    variant: str = "gpu",
    pool: str = "h100",
    gpus: int = 1,
    concurrency: int = 10,
    replicas: tuple[int, int] = (0, 8),
    startup: float = 60.0,
    per_token: float = 0.01,
) -> Variant:
    placement = PoolPlacement(
        pool=PoolName(pool),
        gpus=gpus,
        target=ScaleTarget("Deployment", f"{model}-{variant}"),
        service=ServicePort(model, "http", "http"),
        replicas=Replicas(*replicas),
        startup=startup,
    )
    return Variant(key(model, variant), placement, concurrency, Latency(0.0, per_token))


def external(model: str, *, concurrency: int = 10) -> Variant:
    placement = ExternalPlacement(EndpointUrl("https://api.example.com"))
    return Variant(key(model, "api"), placement, concurrency, Latency(0.0, 0.01))


def model(*variants: Variant, quality: float = 0.7, by_task: Mapping[str, float] | None = None) -> Model:
    name = variants[0].key.model
    tasks = {TaskName(task): mean for task, mean in (by_task or {}).items()}
    return Model(
        name=name,
        served_name=name,
        quality=Quality(quality, tasks),
        context_tokens=None,
        pricing=Pricing(input_femto=10**9, output_femto=2 * 10**9),
        variants=variants,
    )


def fleet(*models: Model, pools: tuple[Pool, ...] = (), hourly_budget: float | None = None) -> Fleet:
    return Fleet(
        key=ObjectKey("ml", "chat"),
        pools=pools or (pool(),),
        models=models,
        hourly_budget=hourly_budget,
        scaling=Scaling(interval=15.0, scale_down_stabilization=300.0, solve_timeout=5.0),
    )


def demand(
    rate: float,
    offers: Mapping[str, tuple[float, float, float]],
    *,
    weight: float = 1.0,
    shed_penalty: float = 0.5,
    task: str = "chat",
    policy: ObjectKey = POLICY,
) -> DemandClass:
    """A class of `rate` requests/s; an offer is (quality, USD, seconds)."""
    return DemandClass(
        policy=policy,
        tier=TierName("default"),
        task=TaskName(task),
        weight=weight,
        shed_penalty=shed_penalty,
        rate=rate,
        offers={ModelName(name): ModelOffer(*offer) for name, offer in offers.items()},
    )
