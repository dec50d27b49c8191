"""Stage observe: the demand of all sidecars as smoothed rates.

In come the sums that sidecars report since their start; out go demand classes for allocation and division.
`publish.py` feeds it; a lost or repeated report changes nothing, since sums are cumulative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.leasing.messages import ClassDemand, SidecarId
from modelfleet_core.policy import Policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName

MEMORY = 15.0
"""Seconds over which a rate follows what is reported."""
SILENT = 60.0
"""Seconds without a report after which a sidecar's last rates are no longer held."""

ClassKey = tuple[TierName, TaskName]


@dataclass(slots=True)
class _Rate:
    total: float = 0.0
    weight: float = 0.0
    sums: float = 0.0
    offers: Mapping[ModelName, ModelOffer] = field(default_factory=dict)

    def add(self, total: float, elapsed: float, offers: Mapping[ModelName, ModelOffer]) -> None:
        fading = math.exp(-elapsed / MEMORY)
        arrived = max(0.0, total - self.total)
        self.sums = self.sums * fading + arrived / elapsed * (1 - fading)
        self.weight = self.weight * fading + (1 - fading)
        self.total = total
        self.offers = offers

    @property
    def rate(self) -> float:
        """Requests per second, without bias towards 0 at the start."""
        return self.sums / self.weight if self.weight > 0 else 0.0


@dataclass(slots=True)
class _Sidecar:
    heard_at: float
    rates: dict[ClassKey, _Rate]


class DemandMeter:
    """Times are the operator's seconds."""

    def __init__(self) -> None:
        self._sidecars: dict[SidecarId, _Sidecar] = {}

    def hear(self, sidecar: SidecarId, demand: Mapping[ClassKey, ClassDemand], now: float) -> None:
        """Take over a newer report. The first one of a sidecar only says from where to count."""
        known = self._sidecars.get(sidecar)
        if known is None:
            rates = {key: _Rate(total=seen.arrivals, offers=seen.offers) for key, seen in demand.items()}
            self._sidecars[sidecar] = _Sidecar(now, rates)
            return
        elapsed = now - known.heard_at
        if elapsed < 0.2:  # too short to tell a rate; the next report holds these arrivals too
            return
        for key, seen in demand.items():
            known.rates.setdefault(key, _Rate()).add(seen.arrivals, elapsed, seen.offers)
        known.heard_at = now

    def classes(
        self, policies: Mapping[SidecarId, ObjectKey], known: Mapping[ObjectKey, Policy], now: float
    ) -> tuple[DemandClass, ...]:
        """Return the demand of the sidecars in `policies`, summed by policy, tier and task.

        A silent sidecar's rates are held for `SILENT` seconds: missing data scales nothing down at once.
        """
        for sidecar in [s for s, state in self._sidecars.items() if now > state.heard_at + SILENT]:
            del self._sidecars[sidecar]
        rates: dict[tuple[ObjectKey, TierName, TaskName], list[_Rate]] = {}
        for sidecar, state in self._sidecars.items():
            followed = policies.get(sidecar)
            if followed is not None:
                for (tier_name, task), rate in state.rates.items():
                    rates.setdefault((followed, tier_name, task), []).append(rate)
        classes = []
        for (key, tier_name, task), parts in sorted(rates.items(), key=lambda item: item[0]):
            policy = known.get(key)
            tier = (
                next((t for t in policy.tiers if t.name == tier_name), None) if policy is not None else None
            )
            total = sum(part.rate for part in parts)
            if policy is not None and tier is not None and total > 0:
                classes.append(
                    DemandClass(
                        policy=key,
                        tier=tier_name,
                        task=task,
                        weight=tier.weight,
                        shed_penalty=policy.shed_penalty * tier.weight,
                        rate=total,
                        offers=_mean_offers(parts),
                    )
                )
        return tuple(classes)


def _mean_offers(parts: list[_Rate]) -> dict[ModelName, ModelOffer]:
    """Return each model's means, weighted by the rates of those who know it."""
    means: dict[ModelName, ModelOffer] = {}
    for model in sorted({model for part in parts for model in part.offers}):
        offers = [(part.rate, part.offers[model]) for part in parts if model in part.offers]
        total = sum(rate for rate, _ in offers)
        if total > 0:
            means[model] = ModelOffer(
                quality=sum(rate * offer.quality for rate, offer in offers) / total,
                cost_usd=sum(rate * offer.cost_usd for rate, offer in offers) / total,
                service_time=sum(rate * offer.service_time for rate, offer in offers) / total,
            )
    return means
