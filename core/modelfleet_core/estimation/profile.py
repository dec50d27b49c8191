"""Stage assign, first half: what a request asks, as far as its text shows without training.

In: the texts of a request's messages. Out: `RequestProfile`. Next: `estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfleet_core.values import TaskName


@dataclass(frozen=True, slots=True)
class RequestProfile:
    task: TaskName
    difficulty: float
    """0 (plain) to 1 (hard)."""
    input_tokens: int
    """Expected."""
    input_tokens_bound: int
    """No tokenizer makes more of it: UTF-8 bytes plus the overhead of each message."""
    output_tokens: float
    """Expected, at most `max_output_tokens`."""
    max_output_tokens: int
    """Enforced upstream, so that the reserve is a bound."""
