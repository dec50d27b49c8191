"""Faults that a simulated server shows on demand.

In: `POST /admin/faults` or the request header `x-lab-fault`. Out: the fault that a request meets, if any.
Next: `serving` plays it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

FAULT_HEADER = "x-lab-fault"


class FaultKind(Enum):
    RATE_LIMIT = "rate_limit"
    """429 with Retry-After: `seconds`."""
    SERVER_ERROR = "server_error"
    """500."""
    UNAVAILABLE = "unavailable"
    """503."""
    STALL = "stall"
    """Nothing for `seconds`, then as usual."""
    STALL_MIDSTREAM = "stall_midstream"
    """Nothing for `seconds` after the first chunk, then as usual."""
    CUT_BEFORE_FIRST = "cut_before_first"
    """The connection closes before the first byte."""
    CUT_AFTER_FIRST = "cut_after_first"
    """The connection closes after the first chunk (not streamed: in the middle of the body)."""
    SLOW_START = "slow_start"
    """The first token comes `seconds` later."""
    MALFORMED = "malformed"
    """A body (streamed: a chunk) that is no JSON."""
    OVERLOAD_IN_STREAM = "overload_in_stream"
    """200, then an error event within the stream (not streamed: an error object with status 200)."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    seconds: float = 1.0
    count: int | None = None
    """How many requests meet it; None: all until cleared."""
    probability: float = 1.0


class FaultPlan:
    """The faults in force; the first that strikes wins."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._left: list[int | None] = []

    def set(self, faults: tuple[Fault, ...]) -> None:
        """Put `faults` in force instead of those before."""
        self._faults = list(faults)
        self._left = [fault.count for fault in faults]

    def strike(self) -> Fault | None:
        """Return the fault that the next request meets."""
        for index, fault in enumerate(self._faults):
            left = self._left[index]
            if left == 0 or (fault.probability < 1 and self._random.random() >= fault.probability):
                continue
            if left is not None:
                self._left[index] = left - 1
            return fault
        return None

    def shown(self) -> list[dict[str, object]]:
        """Return the faults in force, `count` being how many requests each still meets."""
        return [
            asdict(fault) | {"kind": fault.kind.value, "count": left}
            for fault, left in zip(self._faults, self._left, strict=True)
        ]


def parse_fault(value: object) -> Fault:
    """Return the fault of a JSON object, or of its kind's name alone; raise ValueError."""
    row: object = {"kind": value} if isinstance(value, str) else value
    if not isinstance(row, Mapping) or not set(row) <= {"kind", "seconds", "count", "probability"}:
        raise ValueError(f"fault {value!r} is no object of kind, seconds, count, probability")
    try:
        count = row.get("count")
        return Fault(
            FaultKind(row.get("kind")),
            seconds=float(row.get("seconds", 1.0)),
            count=None if count is None else int(count),
            probability=float(row.get("probability", 1.0)),
        )
    except (TypeError, ValueError) as error:
        kinds = ", ".join(kind.value for kind in FaultKind)
        raise ValueError(f"fault {value!r}: {error}; kinds are {kinds}") from error


def parse_faults(body: bytes) -> tuple[Fault, ...]:
    """Return the faults of `{"faults": [...]}`; raise ValueError."""
    row = json.loads(body)
    faults = row.get("faults") if isinstance(row, dict) else None
    if isinstance(faults, list):
        return tuple(parse_fault(fault) for fault in faults)
    raise ValueError('the body must be {"faults": [...]}')


def fault_of_header(value: str) -> Fault:
    """Return the fault of the request header: a kind's name or a JSON object; raise ValueError."""
    try:
        return parse_fault(json.loads(value) if value.lstrip().startswith("{") else value.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"header {FAULT_HEADER}: {error}") from error
