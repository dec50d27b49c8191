"""Serves every stage: is the program alive, and may it be sent sidecars yet?

In: heartbeats of the loops. Out: for `telemetry`, the loops that are late and what is still awaited. A loop
that promises a beat and misses it makes the liveness probe fail, so that a hung operator is restarted.
"""

from __future__ import annotations

from collections.abc import Callable


class Health:
    """`clock` is monotonic."""

    def __init__(self, *, clock: Callable[[], float], awaited: tuple[str, ...]) -> None:
        """`awaited` names what must have happened before the program is ready."""
        self._clock = clock
        self._due: dict[str, float] = {}
        self._awaited = dict.fromkeys(awaited)

    def beat(self, loop: str, *, within: float) -> None:
        """The loop is alive and will beat again within so many seconds."""
        self._due[loop] = self._clock() + within

    def end(self, loop: str) -> None:
        """The loop ended as it should."""
        self._due.pop(loop, None)

    def need(self, step: str) -> None:
        """The program is not ready any more until this is done."""
        self._awaited[step] = None

    def done(self, step: str) -> None:
        self._awaited.pop(step, None)

    def await_again(self, step: str) -> None:
        """The program is not ready, for this reason, until the step is done."""
        self._awaited[step] = None

    def late(self) -> tuple[str, ...]:
        """Return the loops that should have beaten."""
        now = self._clock()
        return tuple(sorted(loop for loop, due in self._due.items() if now > due))

    def awaited(self) -> tuple[str, ...]:
        return tuple(self._awaited)
