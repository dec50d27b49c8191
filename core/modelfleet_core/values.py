"""Names and units that every stage uses.

Money is counted in whole nano-USD (`NanoUsd`), so that sums of leases and ledgers are exact; the
optimisation programs use floats in USD. Time is seconds. Quality is in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import NamedTuple, NewType

ModelName = NewType("ModelName", str)
PoolName = NewType("PoolName", str)
TierName = NewType("TierName", str)
TaskName = NewType("TaskName", str)
EndpointUrl = NewType("EndpointUrl", str)
"""What slots are counted by: base URL of one model server without `/v1`, such as `http://10.0.0.7:8000`.

An external one ends in a fragment that names model and variant, since one API serves many models.
"""
PeriodId = NewType("PeriodId", str)
"""A period of one policy's accounts, such as `ml/assistant/Day/2026-11-22`."""
AccountName = NewType("AccountName", str)
"""One of a policy's accounts, such as `budget`, `share:frontier`, `tenant:acme` or `quota:frontier`."""
AccountId = NewType("AccountId", str)
"""An account in one period: `PeriodId`, a slash and `AccountName`."""
NanoUsd = NewType("NanoUsd", int)

NANO = 1_000_000_000
RATE_MARK = "!"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Name of a namespaced Kubernetes object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class VariantKey(NamedTuple):
    """One model on one accelerator type, or at one external endpoint.

    A tuple, since it is a key everywhere: a dataclass takes several times as long to find in a dict.
    """

    model: ModelName
    variant: str

    def __str__(self) -> str:
        return f"{self.model}/{self.variant}"


def rate_key(variant: VariantKey, what: str) -> VariantKey:
    """Return what a rate limit of an external variant is leased as; `what`: requests or tokens.

    The mark can not occur in the name of a variant. Its slots are units per minute: see `leasing.rates`.
    """
    return VariantKey(variant.model, f"{variant.variant}{RATE_MARK}{what}")


def is_rate(variant: VariantKey) -> bool:
    """Return whether `variant` stands for a rate limit: no request is sent there."""
    return RATE_MARK in variant.variant


def account_id(period: PeriodId, name: AccountName) -> AccountId:
    return AccountId(f"{period}/{name}")


@lru_cache(maxsize=1 << 14)
def account_parts(account: AccountId) -> tuple[PeriodId, AccountName]:
    """Return period and name of an account; the name is empty if `account` is not an id of ours."""
    namespace, policy, length, starts, name = (*account.split("/", 4), "", "", "", "", "")[:5]
    return PeriodId(f"{namespace}/{policy}/{length}/{starts}"), AccountName(name)


class SidecarId(NamedTuple):
    """One start of one sidecar: the pod's UID and a nonce of the process."""

    namespace: str
    pod: str
    uid: str
    boot: str


def leased_endpoint(url: EndpointUrl, variant: VariantKey) -> EndpointUrl:
    """Return what the slots of an external `variant` at the base URL `url` are counted by."""
    return EndpointUrl(f"{url}#{variant}")


@lru_cache(maxsize=1 << 14)
def base_url(endpoint: EndpointUrl) -> EndpointUrl:
    """Return where the model server of `endpoint` is asked; the same text for all decisions that name it."""
    return EndpointUrl(endpoint.partition("#")[0])


def nano_usd(usd: Decimal) -> NanoUsd:
    """Return `usd` in nano-USD, rounded up to a whole one."""
    return NanoUsd(int((usd * NANO).to_integral_value(rounding=ROUND_CEILING)))


def usd(amount: NanoUsd) -> float:
    """Return nano-USD as USD for programs and display; accounts never use this."""
    return amount / NANO
