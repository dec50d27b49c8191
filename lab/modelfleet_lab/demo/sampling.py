"""What the operator says of the fleet while the demo runs, for the live view and the plots only.

In: the operator's `/metrics`. Out: `FleetSample`s over time. Next: `live` shows the newest, `plots` draws
all. No figure of the final table comes from here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

INTERVAL = 0.5


@dataclass(slots=True)
class VariantSample:
    """One model's variant."""

    desired: int = 0
    ready: int = 0
    slots: int = 0
    leased: int = 0
    price: float = 0.0
    """Quality that one second of a slot is worth."""


@dataclass(frozen=True, slots=True)
class FleetSample:
    at: float
    """Seconds since 1970."""
    variants: Mapping[str, VariantSample]
    """By model."""
    spent: float
    """USD that sidecars reported."""
    gap: float
    sidecars: int


@dataclass(slots=True)
class Sampler:
    """Reads `url` every half second, until cancelled."""

    url: str
    samples: list[FleetSample] = field(default_factory=list)
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with each new sample; whoever waits for one clears it."""

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                try:
                    async with session.get(self.url) as response:
                        self.samples.append(parse_sample(await response.text(), time.time()))
                        self.fresh.set()
                except (aiohttp.ClientError, TimeoutError):
                    pass  # The view keeps the last sample; a dead operator is reported by who started it.
                await asyncio.sleep(INTERVAL)


def parse_sample(text: str, at: float) -> FleetSample:
    """Return what the operator's metrics say of the only fleet and policy."""
    variants: dict[str, VariantSample] = {}
    single = {
        "modelfleet_budget_spent_usd": 0.0,
        "modelfleet_plan_gap": 0.0,
        "modelfleet_fleet_sidecars": 0.0,
    }
    fields = {
        ("modelfleet_replicas", "desired"): "desired",
        ("modelfleet_replicas", "ready"): "ready",
        ("modelfleet_slots", "live"): "slots",
        ("modelfleet_slots", "leased"): "leased",
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in single:
                single[sample.name] = sample.value
            model = sample.labels.get("model")
            if model is None:
                continue
            variant = variants.setdefault(model, VariantSample())
            if sample.name == "modelfleet_slot_price":
                variant.price = sample.value
            name = fields.get((sample.name, sample.labels.get("state", "")))
            if name is not None:
                setattr(variant, name, int(sample.value))
    return FleetSample(
        at,
        variants,
        spent=single["modelfleet_budget_spent_usd"],
        gap=single["modelfleet_plan_gap"],
        sidecars=int(single["modelfleet_fleet_sidecars"]),
    )
