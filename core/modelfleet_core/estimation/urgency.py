"""Stage assign, part of the profile: whether someone waits for the answer.

In: how a request was sent. Out: `Urgency` and what decided. Next: explanations. Tiers alone decide who goes
first.
"""

from __future__ import annotations

from enum import Enum

_SOON, _LATE = 60.0, 900.0
"""Seconds that a caller gives itself: at most the one, someone waits; at least the other, nobody does."""
_SHORT = 64
"""Words of a question that someone typed."""


class Urgency(Enum):
    INTERACTIVE = "Interactive"
    BATCH = "Batch"
    UNKNOWN = "Unknown"


def urgency(*, stream: bool, flex: bool, remaining: float | None, words: int) -> tuple[Urgency, str]:
    """Return whether someone waits, by the first sign that says so.

    `flex`: the caller asked for slow and cheap service (`service_tier: flex`). `remaining`: seconds of the
    caller's own deadline; None: it has none. `words`: of its message.
    """
    if flex:
        return Urgency.BATCH, "service_tier flex"
    if stream:
        return Urgency.INTERACTIVE, "a stream was asked for"
    if remaining is not None and remaining <= _SOON:
        return Urgency.INTERACTIVE, f"deadline within {_SOON:g} s"
    if remaining is not None and remaining >= _LATE:
        return Urgency.BATCH, f"deadline after {_LATE:g} s"
    if words <= _SHORT:
        return Urgency.INTERACTIVE, f"at most {_SHORT} words"
    return Urgency.UNKNOWN, "no sign"
