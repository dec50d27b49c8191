"""When a failed call is made again: what the sidecar says will be better, within the caller's time.

In: an error, and how often and how long the call was tried. Out: seconds to wait, or that it is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfleet_client.errors import ModelfleetError, Unreachable

FIRST_PAUSE = 0.05
"""Seconds before a second attempt where the sidecar names none; doubled for each one after."""
JITTER = 0.5
"""The longest addition to a pause, as a share of it, so that callers do not come back together."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How patient a client is."""

    attempts: int = 3
    """In all; 1: none is repeated."""
    longest_pause: float = 10.0
    """Seconds; an error that asks for more is raised at once."""

    def pause(
        self, error: ModelfleetError, attempt: int, left: float | None, draw: float, *, idempotent: bool
    ) -> float | None:
        """Return seconds to wait after attempt number `attempt`, from 1; None: raise `error`.

        `left`: seconds of the caller's time, None: no bound. `draw`: uniform in [0, 1). `idempotent`: the
        call may be repeated though it may have been done, as where the connection broke.
        """
        if attempt >= self.attempts:
            return None
        if error.retry_after is not None and error.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
            asked = error.retry_after
        elif idempotent and isinstance(error, Unreachable):
            asked = 0.0
        else:
            return None
        if asked > self.longest_pause:
            return None
        pause = max(asked, FIRST_PAUSE * 2 ** (attempt - 1)) * (1.0 + JITTER * draw)
        return pause if left is None or pause < left else None
