"""Stage batch, the edge: what a caller says in `x-modelfleet-*` headers, checked.

In: headers (HTTP) or metadata (gRPC) with lower-case names. Out: `Wishes`, or a `Failure` that names the
header. Next: `asking` makes them part of the `Ask`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from modelfleet_core.values import NANO, ModelName, NanoUsd

from modelfleet_sidecar.failures import Failure, Fault

PREFIX = "x-modelfleet-"
TIER_HEADER, TASK_HEADER, SESSION_HEADER = f"{PREFIX}tier", f"{PREFIX}task", f"{PREFIX}session"
MAX_COST_HEADER, MIN_QUALITY_HEADER = f"{PREFIX}max-cost-usd", f"{PREFIX}min-quality"
EXCLUDE_HEADER, EXPLAIN_HEADER = f"{PREFIX}exclude", f"{PREFIX}explain"
_WISHING = frozenset(
    {
        *(TIER_HEADER, TASK_HEADER, SESSION_HEADER, MAX_COST_HEADER, MIN_QUALITY_HEADER),
        *(EXCLUDE_HEADER, EXPLAIN_HEADER),
    }
)
EXPLAIN_FULL, EXPLAIN_NONE = "full", "none"
LONGEST_SESSION, LONGEST_NAME, MOST_EXCLUDED = 256, 128, 64
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SHOWN = 40
"""Characters of a value that an error repeats."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one caller wants of its answer besides what it asks."""

    tier: str = ""
    """Empty: as the policy has it."""
    task: str = ""
    max_cost: NanoUsd | None = None
    min_quality: float = 0.0
    exclude: frozenset[ModelName] = frozenset()
    session: str = ""
    explained: bool = True
    """Whether its decision is told and kept."""


NO_WISHES = Wishes()


def wishes(headers: Mapping[str, str]) -> Wishes:
    """Return what `headers` wish. Raises Failure; unknown names in `exclude` exclude nothing."""
    if _WISHING.isdisjoint(headers):
        return NO_WISHES
    cost, quality = headers.get(MAX_COST_HEADER), headers.get(MIN_QUALITY_HEADER)
    least = 0.0 if quality is None else float(_decimal(MIN_QUALITY_HEADER, quality, "from 0 to 1"))
    if least > 1:
        raise bad_header(MIN_QUALITY_HEADER, f"{_shown(quality)} is above 1; write a decimal from 0 to 1")
    session = headers.get(SESSION_HEADER, "")
    if len(session) > LONGEST_SESSION:
        problem = f"is {len(session)} characters long; write at most {LONGEST_SESSION}"
        raise bad_header(SESSION_HEADER, problem)
    return Wishes(
        tier=_name(headers, TIER_HEADER),
        task=_name(headers, TASK_HEADER),
        max_cost=None
        if cost is None
        else NanoUsd(int(_decimal(MAX_COST_HEADER, cost, "of USD such as 0.002") * NANO)),
        min_quality=least,
        exclude=_excluded(headers.get(EXCLUDE_HEADER, "")),
        session=session,
        explained=_explained(headers.get(EXPLAIN_HEADER, "")),
    )


def bad_header(name: str, problem: str) -> Failure:
    """Return the error of a request whose header `name` can not be used."""
    return Failure(Fault.BAD_REQUEST, "InvalidHeader", f"header {name}: {problem}", field=name)


def _name(headers: Mapping[str, str], header: str) -> str:
    value = headers.get(header, "")
    if len(value) > LONGEST_NAME:
        raise bad_header(header, f"is {len(value)} characters long; write at most {LONGEST_NAME}")
    return value


def _decimal(header: str, value: str, which: str) -> Decimal:
    if not _DECIMAL.fullmatch(value.strip()):
        raise bad_header(header, f"{_shown(value)} is no plain decimal; write one {which}")
    return Decimal(value.strip())


def _excluded(value: str) -> frozenset[ModelName]:
    if not value:
        return frozenset()
    names = [name.strip() for name in value.split(",", MOST_EXCLUDED)]
    if len(names) > MOST_EXCLUDED:
        problem = f"names more than {MOST_EXCLUDED} models; name fewer, or allow models by the policy"
        raise bad_header(EXCLUDE_HEADER, problem)
    if any(len(name) > LONGEST_NAME for name in names):
        raise bad_header(EXCLUDE_HEADER, f"has a name of more than {LONGEST_NAME} characters")
    return frozenset([ModelName(name) for name in names if name])


def _explained(value: str) -> bool:
    if value not in ("", EXPLAIN_FULL, EXPLAIN_NONE):
        raise bad_header(
            EXPLAIN_HEADER, f"{_shown(value)} is refused; write {EXPLAIN_FULL} or {EXPLAIN_NONE}"
        )
    return value != EXPLAIN_NONE


def _shown(value: str | None) -> str:
    return ascii((value or "")[:_SHOWN])
