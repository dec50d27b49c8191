"""Stage assign, the first choice: from prices to an assignment that breaks no limit.

In: the program in arrays, and what each cell is worth at the prices. Out: a column per request; the last
column: it waits. Next: `search` improves it.

1. Every request asks for its best column at the prices; full columns keep those who would lose most.
2. Rows that are over send those to wait who gain least per unit of the row.
3. What is left is spent on the moves that gain most per share of what is left. Without prices this is the
   greedy assignment by value density.
All of it works on many requests at once, so that it costs little even where time is up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.problem import BoolArray, FloatArray, IntArray

_PHI = 0.6180339887498949
_ROUNDS = 40
_SLIM = 1e-12
"""Tolerance of sums in units of the largest use or of the limit; `certificate` checks them exactly."""


def excess(cells: Cells, choice: IntArray) -> FloatArray:
    """Return what `choice` uses beyond each limit, negative where something is left, (limits,)."""
    m, at = cells.m, np.arange(cells.n)
    load = np.bincount(choice, minlength=m + 1)[:m].astype(np.float64)
    load = np.append(load, np.zeros(cells.limit.size + 1 - m))
    for use, owner in zip(cells.use, cells.owner, strict=True):
        load += np.bincount(owner, use[choice, at], minlength=load.size)
    return load[:-1] - cells.limit


def tolerance(cells: Cells) -> FloatArray:
    """Return the excess that counts as none, (limits,)."""
    return _SLIM * np.maximum(cells.limit, 1.0)


def worth(cells: Cells, choice: IntArray) -> float:
    return float(cells.value[choice, np.arange(cells.n)].sum())


def ask(cells: Cells, wish: FloatArray) -> IntArray:
    """Step 1, in rounds: each fills a column or ends. `wish` (m + 1, n), minus infinity: not eligible."""
    m = cells.m
    room = np.append(cells.limit[:m], cells.n).astype(np.int64)
    choice = np.empty(cells.n, dtype=np.int64)
    left = np.arange(cells.n)
    while left.size:
        open_wish = np.where((room > 0)[:, None], wish[:, left], -np.inf)
        at = np.arange(left.size)
        best = open_wish.argmax(axis=0)
        top = open_wish[best, at]
        open_wish[best, at] = -np.inf
        # Waiting has room for everyone, so there is always a second best but for itself.
        regret = top - np.maximum(open_wish.max(axis=0), wish[m, left])
        order = np.lexsort((-regret, best))
        column = best[order]
        placed = at - np.searchsorted(column, column) < room[column]
        choice[left[order[placed]]] = column[placed]
        room -= np.bincount(column[placed], minlength=m + 1)
        left = np.sort(left[order[~placed]])
    return choice


def spread(cells: Cells, reduced: FloatArray, share: FloatArray, near: float, phase: float) -> IntArray:
    """Return step 1 for a relaxed `share` (m + 1, n): requests that are alike divide as it says.

    Cells within `near` of a request's best are as good as that. Each `phase` in [0, 1) divides them anew.
    """
    top = reduced.max(axis=0)
    close = top - reduced <= near
    total = np.cumsum(np.where(close, np.maximum(share, 1e-9), 0.0), axis=0)
    # Offsets that fill [0, 1) evenly, whichever stretch of the order is taken.
    offset = np.empty(cells.n)
    offset[np.argsort(top, kind="stable")] = (np.arange(cells.n) * _PHI + phase) % 1.0
    drawn = (total > offset * total[-1]).argmax(axis=0)
    wish = reduced.copy()
    wish[drawn, np.arange(cells.n)] += near
    return ask(cells, wish)


def evict(cells: Cells, choice: IntArray) -> IntArray:
    """Step 2."""
    m, at = cells.m, np.arange(cells.n)
    choice = choice.copy()
    slim = tolerance(cells)
    for _ in range(cells.limit.size):
        over = excess(cells, choice)
        broken = np.flatnonzero(over > slim)
        if not broken.size:
            break
        d = int(broken[np.argmax(over[broken] / np.maximum(cells.limit[broken], _SLIM))])
        using = np.zeros(cells.n)
        for use, owner in zip(cells.use, cells.owner, strict=True):
            using += np.where(owner == d, use[choice, at], 0.0)
        gain = cells.value[choice, at] - cells.value[m]
        who = np.flatnonzero(using > 0)
        who = who[np.argsort(gain[who] / using[who], kind="stable")]
        enough = int(np.searchsorted(np.cumsum(using[who]), over[d])) + 1
        choice[who[:enough]] = m
    return choice


def _grouped(order: IntArray, group: IntArray, amount: FloatArray) -> FloatArray:
    """Return running sums of `amount` within each group, along `order`."""
    by_group = order[np.argsort(group[order], kind="stable")]
    running = np.cumsum(amount[by_group])
    sizes = group[by_group]
    first = np.searchsorted(sizes, sizes)
    before = np.where(first > 0, running[first - 1], 0.0)
    sums = np.empty(amount.size)
    sums[by_group] = running - before
    return sums


def fill(
    cells: Cells, choice: IntArray, *, remaining: Callable[[], float], rounds: int = _ROUNDS
) -> IntArray:
    """Step 3, in rounds: each request's best move, as many of them as fit. Breaks no limit at any time."""
    m, at = cells.m, np.arange(cells.n)
    choice = choice.copy()
    negligible = 1e-12 * max(1.0, float(np.abs(cells.value[m]).max(initial=0.0)))
    for attempt in range(rounds):
        if attempt and remaining() <= 0:
            break
        left = np.append(np.maximum(-excess(cells, choice), 0.0), np.inf)
        room = np.append(left[:m], np.inf)
        gain = cells.value - cells.value[choice, at]
        allowed: BoolArray = (gain > negligible) & (room >= 1)[:, None]
        if not allowed.any():
            break
        share = np.zeros_like(gain)
        for use, owner in zip(cells.use, cells.owner, strict=True):
            more = use - use[choice, at]
            has = left[owner]
            allowed &= more <= has
            share += np.maximum(more, 0.0) / np.maximum(has, _SLIM)
        density = np.where(allowed, gain / (share + 1e-3), -1.0)
        target = density.argmax(axis=0)
        best = density[target, at]
        who = np.flatnonzero(best > 0)
        if not who.size:
            break
        order = who[np.argsort(-best[who], kind="stable")]
        rank = _grouped(order, target, np.ones(cells.n))
        taken = np.zeros(cells.n, dtype=bool)
        taken[who] = rank[who] <= room[target[who]]
        for use, owner in zip(cells.use, cells.owner, strict=True):
            more = np.maximum(use[target, at] - use[choice, at], 0.0)
            order = order[taken[order]]
            sums = _grouped(order, owner, more)
            taken[order] = (sums <= left[owner])[order] | (more[order] == 0.0)
        choice[taken] = target[taken]
    return choice
