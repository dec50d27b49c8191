"""Serves stages spec to status: one condition of an object, and the reasons that users see."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """`message` is one sentence for a human: what is wrong and what to do about it."""

    type: str
    verdict: Verdict
    reason: str
    message: str

    @property
    def holds(self) -> bool:
        return self.verdict is Verdict.TRUE


def yes(kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, Verdict.TRUE, reason, message)


def no(kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, Verdict.FALSE, reason, message)


def unknown(kind: str, reason: str, message: str) -> Condition:
    return Condition(kind, Verdict.UNKNOWN, reason, message)
