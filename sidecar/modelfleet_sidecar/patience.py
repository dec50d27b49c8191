"""Stage forward, its patience: how long an attempt may take to connect, to begin, to go on, in all, and how
slowly it may go.

In: the policy's `Timeouts`, what a connection waits for, tokens so far. Out: which `Bound` is exceeded; a
`Vigil` then ends the connection's waiting with it. Next: `exchange` says so, and `serving` may try elsewhere.

Only waiting for the model server counts between tokens and for the pace: a caller that reads slowly is no
fault of the server's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from enum import Enum

from modelfleet_core.policy import Timeouts

from modelfleet_sidecar.connection import Connection, CutError
from modelfleet_sidecar.sse import EventStream

PACE_TOKENS = 20
"""Tokens that a stream at the slowest pace allowed sends in the window by which its pace is measured."""
LONGEST_WINDOW = 60.0
SAMPLES = 4
"""Looks at the pace in a window."""


LEAST_SILENCE = 3.0
PREFILL = 1000.0
"""Tokens of a prompt that the slowest servers read in a second."""
TIMES_USUAL = 5.0


def hung_after(usual: float, input_tokens: int) -> float:
    """Return the seconds without any content after which a server has failed a caller that left then.

    `usual`: what is expected, of a stream to its first token, else of the longest answer allowed. Callers may
    have less patience than a policy's timeouts: a server that hangs would be asked for ever.
    """
    return LEAST_SILENCE + input_tokens / PREFILL + TIMES_USUAL * usual


class Bound(Enum):
    """What took too long, as the policy names it."""

    FIRST_TOKEN = "firstToken"  # noqa: S105
    BETWEEN_TOKENS = "betweenTokens"
    PACE = "minTokensPerSecond"
    TOTAL = "total"


class LateError(CutError):
    """An attempt exceeded a bound. `callers`: since its caller read slowly, by no fault of the server's."""

    def __init__(self, bound: Bound, limit: float, *, callers: bool = False) -> None:
        why = ", and its caller was waited for longer than the server" if callers else ""
        super().__init__(f"timeouts.{bound.value} of {limit:g} is over{why}")
        self.bound = bound
        self.callers = callers


class Patience:
    """The bounds of one attempt. Pure: times are arguments, all on one clock."""

    def __init__(self, timeouts: Timeouts, begun: float, *, stream: bool) -> None:
        self._timeouts = timeouts
        self._ends = begun + timeouts.total
        self._first_by = begun + timeouts.first_token if stream else math.inf
        self._spoke = False
        rate = timeouts.min_tokens_per_second
        self._window = min(LONGEST_WINDOW, PACE_TOKENS / rate) if rate > 0 else math.inf
        self._samples: deque[tuple[float, float]] = deque()
        """Seconds waited for the server, and tokens, at earlier looks."""

    def spoke(self, waited: float, tokens: float) -> None:
        """The first content came, after so many seconds of waiting and with so many tokens."""
        self._spoke = True
        self._samples.append((waited, tokens))

    def due(self, now: float, silent: float) -> float:
        """Return when to look next; the server has been silent for `silent` seconds."""
        if not self._spoke:
            return min(self._ends, self._first_by)
        quiet = now - silent + self._timeouts.between_tokens
        return min(self._ends, quiet, now + self._window / SAMPLES)

    def look(self, now: float, silent: float, waited: float, tokens: float) -> LateError | None:
        """Return which bound is exceeded. `waited`: seconds in all, with those of this silence."""
        timeouts = self._timeouts
        if now >= self._ends:
            return LateError(Bound.TOTAL, timeouts.total, callers=self._spoke and waited < timeouts.total / 2)
        if not self._spoke:
            late = now >= self._first_by
            return LateError(Bound.FIRST_TOKEN, timeouts.first_token) if late else None
        if silent >= timeouts.between_tokens:
            return LateError(Bound.BETWEEN_TOKENS, timeouts.between_tokens)
        if self._window < math.inf and self._slow(waited, tokens):
            return LateError(Bound.PACE, timeouts.min_tokens_per_second)
        return None

    def _slow(self, waited: float, tokens: float) -> bool:
        samples = self._samples
        while len(samples) > 1 and waited - samples[1][0] >= self._window:
            samples.popleft()
        since, before = samples[0]
        seconds = waited - since
        if seconds >= self._window and tokens - before < self._timeouts.min_tokens_per_second * seconds:
            return True
        if waited - samples[-1][0] >= self._window / SAMPLES:
            samples.append((waited, tokens))
        return False


class Vigil:
    """Looks at one attempt's connection until `end`."""

    def __init__(
        self,
        timeouts: Timeouts,
        begun: float,
        connection: Connection,
        stream: EventStream | None,
        clock: Callable[[], float],
    ) -> None:
        self._patience = Patience(timeouts, begun, stream=stream is not None)
        self._connection = connection
        self._stream = stream
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._wait(clock(), 0.0)

    def spoke(self) -> None:
        """The stream's first content came."""
        assert self._stream is not None  # noqa: S101 - only streams have a first content
        self._patience.spoke(self._connection.waited, self._stream.tokens)
        self.end()
        self._wait(self._clock(), 0.0)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, now: float, silent: float) -> None:
        delay = max(0.001, self._patience.due(now, silent) - now)
        self._timer = self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        now = self._clock()
        silent = self._connection.silent
        tokens = self._stream.tokens if self._stream is not None else 0.0
        late = self._patience.look(now, silent, self._connection.waited + silent, tokens)
        if late is None:
            self._wait(now, silent)
        else:
            self._timer = None
            self._connection.interrupt(late)
