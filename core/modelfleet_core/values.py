"""Names and units that every stage uses.

Money is counted in whole nano-USD (`NanoUsd`), so that sums of leases and ledgers are exact; the
optimisation programs use floats in USD. Time is seconds. Quality is in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import NewType

ModelName = NewType("ModelName", str)
PoolName = NewType("PoolName", str)
TierName = NewType("TierName", str)
TaskName = NewType("TaskName", str)
EndpointUrl = NewType("EndpointUrl", str)
"""What slots are counted by: base URL of one model server without `/v1`, such as `http://10.0.0.7:8000`.

An external one ends in a fragment that names model and variant, since one API serves many models.
"""
PeriodId = NewType("PeriodId", str)
"""A period of one policy's budget, such as `ml/assistant/Day/2026-11-22`."""
NanoUsd = NewType("NanoUsd", int)

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Name of a namespaced Kubernetes object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class VariantKey:
    """One model on one accelerator type, or at one external endpoint."""

    model: ModelName
    variant: str

    def __str__(self) -> str:
        return f"{self.model}/{self.variant}"


def leased_endpoint(url: EndpointUrl, variant: VariantKey) -> EndpointUrl:
    """Return what the slots of an external `variant` at the base URL `url` are counted by."""
    return EndpointUrl(f"{url}#{variant}")


def base_url(endpoint: EndpointUrl) -> EndpointUrl:
    """Return where the model server of `endpoint` is asked."""
    return EndpointUrl(endpoint.partition("#")[0])


def nano_usd(usd: Decimal) -> NanoUsd:
    """Return `usd` in nano-USD, rounded up to a whole one."""
    return NanoUsd(int((usd * NANO).to_integral_value(rounding=ROUND_CEILING)))


def usd(amount: NanoUsd) -> float:
    """Return nano-USD as USD for programs and display; accounts never use this."""
    return amount / NANO
