"""Stage publish, both edges: what a message of the lease stream may hold.

In: fields as they came. Out: core values, or a `WireError` that names the field. The two `wire` modules are
the only callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from modelfleet_core.values import ModelName, VariantKey

MAX_ENTRIES = 10_000
MAX_TEXT = 1_024
MAX_ENDPOINT = 4_096
MAX_SLOTS = 1 << 20
MAX_BIDS = 16
MAX_MODELS = 1_000
MAX_CELLS = 1_000
MAX_SUM = 1e15
"""Of what a sidecar counts since its start."""
MAX_DOCUMENT = 1 << 20
"""Bytes of a manifest or an estimator."""
MAX_LEARNED_MODELS = 64
MAX_EXPERIENCE_CELLS = 1_024

T = TypeVar("T")


class WireError(ValueError):
    """A message that breaks the protocol's bounds; `field` names the place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}; operator and sidecar must be of compatible versions")
        self.field = field


def bounded(field: str, entries: Sequence[T], most: int = MAX_ENTRIES) -> Sequence[T]:
    if len(entries) > most:
        raise WireError(field, f"{len(entries)} entries are more than {most}")
    return entries


def text(field: str, value: str, most: int = MAX_TEXT) -> str:
    if not 0 < len(value) <= most:
        raise WireError(field, f"must have 1 to {most} characters, has {len(value)}")
    return value


def variant(field: str, model: str, name: str) -> VariantKey:
    return VariantKey(ModelName(text(f"{field}.model", model)), text(f"{field}.variant", name))


def slots(field: str, count: int) -> int:
    if count > MAX_SLOTS:
        raise WireError(field, f"{count} is above {MAX_SLOTS}")
    return count


def amount(field: str, count: int) -> int:
    """Check an amount of an account: nano-USD or requests."""
    if count < 0:
        raise WireError(field, f"must not be negative, is {count}")
    return count
