"""Stage assign, the rows of a batch: accounts, limits by the minute and pacing.

In: candidates and the `Room`. Out: `Row`s, named as explanations show them, only where they can bind.
Next: `placing` puts them into the program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from modelfleet_core.assignment.problem import BoolArray, FloatArray, Row
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.room import Room, account_label, rate_label
from modelfleet_core.batching.worth import PACING
from modelfleet_core.leasing.accounts import counts_requests
from modelfleet_core.values import NANO

Name = TypeVar("Name")


def rows_of(
    candidates: Sequence[Candidate], cost: FloatArray, eligible: BoolArray, room: Room, paced: BoolArray
) -> tuple[Row, ...]:
    """Return the rows of n candidates over m variants; `cost` and `eligible` are (n, m), `paced` (n,)."""
    rows: list[Row] = []
    if any(one.charges for one in candidates):
        uses = _uses([one.charges for one in candidates], eligible)
        for name, use in uses.items():
            unit = 1 if counts_requests(name) else NANO
            rows += _row(account_label(name), use, room.accounts.get(name, 0), unit)
    if any(one.rates for one in candidates):
        limits = _uses([one.rates for one in candidates], eligible)
        for endpoint, use in limits.items():
            rows += _row(rate_label(endpoint), use, room.units.get(endpoint, 0), 1)
    if room.pacing != math.inf:
        least = np.where(eligible, cost, np.inf).min(axis=1, initial=np.inf)
        extra = np.where(eligible, cost - least[:, None], 0.0)
        extra = np.where(np.isfinite(extra) & paced[:, None], extra, 0.0)
        # One request may overdraw what has fallen due, or no dear model could be used with a small allowance.
        limit = max(room.pacing, float(extra.max(initial=0.0))) if room.pacing > 0 else 0.0
        rows += _row(PACING, extra, limit, 1)
    return tuple(rows)


def _row(name: str, use: FloatArray, limit: float, unit: int) -> list[Row]:
    """Return the row over the requests that it is about, in units of `unit`; none if it can not bind."""
    most = use.max(axis=1, initial=0.0)
    if most.sum() <= limit:
        return []
    about = np.flatnonzero(most > 0)
    if about.size == len(use):
        return [Row(name, use / unit, limit / unit)]
    return [Row(name, use[about] / unit, limit / unit, about)]


def _uses(charges: Sequence[Sequence[Mapping[Name, int]]], eligible: BoolArray) -> dict[Name, FloatArray]:
    uses: dict[Name, FloatArray] = {}
    for i, columns in enumerate(charges):
        for j, charged in enumerate(columns):
            for name, amount in charged.items():
                use = uses.get(name)
                if use is None:
                    use = uses[name] = np.zeros(eligible.shape)
                use[i, j] = amount
    return {name: np.where(eligible, use, 0.0) for name, use in uses.items()}
