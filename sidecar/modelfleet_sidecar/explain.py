"""Stage assign, its memory: the last decisions, for `Explain` and `GET /v1/decisions/{id}`.

In: each `Decision`, later its settlement. Out: `Explained`. Bounded; holds no text of any request.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace

from modelfleet_core.values import NanoUsd, VariantKey

from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.feedback import Feedback

KEPT = 10_000
KEPT_VARIANTS = 250_000
"""Each takes some 110 bytes."""
KEPT_COMMENTS = 1_000
"""Decisions whose feedback keeps its comment."""


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
    """At published prices."""
    batch_price: float
    """Weighted quality that it would have paid for limits of the batch."""
    excluded_by: str
    stopped_by: str
    deviation: float
    """Standard deviation of `quality` as an estimate."""
    samples: float
    """Scored answers behind it; 0: the manifest's word."""
    service_samples: float
    """Answers behind `service_time`; 0: the manifest's word."""


@dataclass(slots=True)
class Entry:
    decision: Decision
    cost: NanoUsd | None = None
    """None: not settled yet."""
    answer_id: str = ""
    """As the model server named its answer; empty: it did not."""
    failure: str = ""
    """Reason why it failed; empty: it did not."""
    feedback: Feedback | None = None
    """What was counted."""
    usage: Usage | None = None
    """Of a whole answer, or as its caller settled it; None: not known."""
    judged: float | None = None
    """The judge's score, 0 to 1; None: there is none."""


class DecisionLog:
    """Every decision that is not settled, of which the lease's slots allow only so many, and the last `kept`
    settled ones, fewer where they hold more than `variants` considered; oldest forgotten first."""

    def __init__(self, kept: int = KEPT, variants: int = KEPT_VARIANTS) -> None:
        self._kept = kept
        self._most = variants
        self._open: dict[str, Entry] = {}
        self._settled: OrderedDict[str, Entry] = OrderedDict()
        self._variants = 0
        """Considered in `_settled`."""
        self._commented: deque[Entry] = deque()
        self._answers: dict[str, str] = {}
        """Decisions by the ids of their answers; empty: several have that id."""

    def __len__(self) -> int:
        return len(self._open) + len(self._settled)

    def add(self, decision: Decision) -> None:
        self._open[decision.id] = Entry(decision)

    def settled(self, decision_id: str, cost: NanoUsd) -> None:
        """Remember what a decision cost in the end."""
        entry = self._open.pop(decision_id, None)
        if entry is None:
            return
        entry.cost = cost
        self._settled[decision_id] = entry
        self._variants += len(entry.decision.considered.variants)
        while len(self._settled) > self._kept or (self._variants > self._most and len(self._settled) > 1):
            _, oldest = self._settled.popitem(last=False)
            self._variants -= len(oldest.decision.considered.variants)
            self._answers.pop(oldest.answer_id, None)

    def answered(self, decision_id: str, answer_id: str, usage: Usage) -> None:
        """Remember what an answer used, and by which id its caller knows it (empty: none)."""
        entry = self.find(decision_id)
        if entry is None:
            return
        entry.usage = usage
        if answer_id and not entry.answer_id:
            entry.answer_id = answer_id
            self._answers[answer_id] = decision_id if answer_id not in self._answers else ""

    def failed(self, decision_id: str, reason: str) -> None:
        """Remember why a decision came to nothing."""
        if (entry := self.find(decision_id)) is not None:
            entry.failure = reason

    def scored(self, entry: Entry, feedback: Feedback) -> None:
        """Remember what was said of a decision; the oldest comments are forgotten first."""
        entry.feedback = feedback
        if not feedback.comment:
            return
        self._commented.append(entry)
        if len(self._commented) > KEPT_COMMENTS:
            oldest = self._commented.popleft()
            if oldest.feedback is not None:
                oldest.feedback = replace(oldest.feedback, comment="")

    def find(self, decision_id: str) -> Entry | None:
        return self._open.get(decision_id) or self._settled.get(decision_id)

    def find_answer(self, answer_id: str) -> Entry | None:
        """Return the decision of an answer; None: it is not known, or not the only one of that id."""
        return self.find(self._answers.get(answer_id, ""))


def options(decision: Decision) -> list[Option]:
    """Return every variant that was considered: what could be chosen first, best value first."""
    considered = decision.considered
    figures, evidence = considered.figures, considered.evidence
    listed = [
        Option(
            variant=variant,
            quality=float(figures[0, j]),
            cost=float(figures[1, j]),
            service_time=float(figures[2, j]),
            slot_price=float(figures[3, j]),
            value=float(figures[4, j]),
            batch_price=float(figures[5, j]),
            excluded_by=considered.excluded_by[j],
            stopped_by=considered.stopped_by[j],
            deviation=float(evidence[0, j]),
            samples=float(evidence[1, j]),
            service_samples=float(evidence[2, j]),
        )
        for j, variant in enumerate(considered.variants)
    ]
    return sorted(listed, key=lambda option: (bool(option.excluded_by), -option.value))
