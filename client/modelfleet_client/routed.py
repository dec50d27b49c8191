"""A routed decision in the hands of an application that calls the model itself.

In: a decision, and what the application says it used. Out: how `client` and `aio` settle it.
"""

from __future__ import annotations

from modelfleet_client.values import Decision, Outcome, Settled, Usage


class Routed:
    """What a `settling` block tells of its call; where it tells nothing, nothing reached the model."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.settled: Settled | None = None
        """What was booked, after the block; None: nothing, it was lost."""
        self._usage: Usage | None = None
        self._lost = False

    def used(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> None:
        """Say what the model server billed."""
        self._usage = Usage(input_tokens, output_tokens, cached_tokens)

    def lost(self) -> None:
        """Say that nobody knows what the call used: it will cost its reserve, as the budget must assume."""
        self._lost = True

    def bill(self, *, failed: bool) -> tuple[Usage | None, Outcome] | None:
        """Return what to settle the decision by; None: leave it to the sidecar, it was lost."""
        if self._usage is None and self._lost:
            return None
        return self._usage, Outcome.ERROR if failed else Outcome.OK
