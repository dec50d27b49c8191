"""Stage assign, its memory: the last decisions, for `Explain` and `GET /v1/decisions/{id}`.

In: each `Decision`, later its settlement. Out: `Explained`. Bounded; holds no text of any request.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from modelfleet_core.values import NanoUsd, VariantKey

from modelfleet_sidecar.decision import Decision

KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Option:
    """One variant as it stood when the decision was taken."""

    variant: VariantKey
    quality: float
    cost: float
    """USD, expected."""
    service_time: float
    slot_price: float
    value: float
    excluded_by: str


@dataclass(slots=True)
class Entry:
    decision: Decision
    cost: NanoUsd | None = None
    """None: not settled yet."""


class DecisionLog:
    """The last `kept` decisions, oldest forgotten first."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, decision: Decision) -> None:
        self._entries[decision.id] = Entry(decision)
        while len(self._entries) > self._kept:
            self._entries.popitem(last=False)

    def settled(self, decision_id: str, cost: NanoUsd) -> None:
        """Remember what a decision cost in the end."""
        if (entry := self._entries.get(decision_id)) is not None:
            entry.cost = cost

    def find(self, decision_id: str) -> Entry | None:
        return self._entries.get(decision_id)


def options(decision: Decision) -> list[Option]:
    """Return every variant that was considered: what could be chosen first, best value first."""
    considered = decision.considered
    listed = [
        Option(
            variant=variant,
            quality=float(considered.figures[0, j]),
            cost=float(considered.figures[1, j]),
            service_time=float(considered.figures[2, j]),
            slot_price=float(considered.figures[3, j]),
            value=float(considered.figures[4, j]),
            excluded_by=considered.excluded_by[j],
        )
        for j, variant in enumerate(considered.variants)
    ]
    return sorted(listed, key=lambda option: (bool(option.excluded_by), -option.value))
