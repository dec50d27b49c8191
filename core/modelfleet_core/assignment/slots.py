"""Stage assign, where few slots are free: the exact choice, in time that goes by the slots, not by the batch.

In: the program in arrays. Out: a choice that is best as far as slots go, and their prices. Next: `solver`,
which takes it where it breaks no row either, and solves the whole program where it does.

Successive shortest paths (Ahuja, Magnanti and Orlin, Network Flows, 1993, section 9.7) on a graph whose nodes
are the columns with fewer slots than requests, and home: each request's best without them, be it to wait. An
edge from a to b is worth what the request in a gains that gains most by going to b. All are at home at first;
each round takes one more from there to a free slot, along the path that is worth most, until none is worth
anything. A column's price is what one slot more would add: with these prices the bound is the objective.
"""

from __future__ import annotations

import numpy as np

from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.problem import FloatArray, IntArray

FEW = 32
"""Slots up to which this takes less time than the prices of the whole program."""
_SLIM = 1e-12
"""What counts as no gain, in units of the largest value."""


def few(cells: Cells) -> bool:
    """Return whether few slots are free, of those that can be short."""
    free = cells.limit[: cells.m]
    return float(free[free < cells.n].sum()) <= FEW


def share_out(cells: Cells) -> tuple[IntArray, FloatArray]:
    """Return the best column of each request (m: it waits) if slots were the only limits, and all prices.

    (n,) and (limits,), with rows at a price of zero. Of requests that gain the same, the first one goes.
    """
    free = cells.limit[: cells.m]
    columns = np.flatnonzero((free > 0) & (free < cells.n))
    open_to_all = np.append(np.flatnonzero(free >= cells.n), cells.m)
    last = columns.size  # home
    value = np.vstack((cells.value[columns], cells.value[open_to_all].max(axis=0)))
    # Nobody goes where less is had than at home, however much less: it must not count as the largest value.
    np.copyto(value[:last], -np.inf, where=value[:last] < value[last])
    slim = _SLIM * float(np.abs(value).max(where=np.isfinite(value), initial=1.0))
    room = np.append(free[columns], 0.0)
    place = np.full(cells.n, last)
    gain = np.full((last + 1, last + 1), -np.inf)
    mover = np.zeros((last + 1, last + 1), dtype=np.int64)
    begin = np.append(np.full(last, -np.inf), 0.0)
    changed = [last]
    while True:
        for node in changed:
            gain[node], mover[node] = _moves(value, place, node)
        worth, before = _paths(gain, begin, slim)
        end = int(np.where(room > 0, worth, -np.inf).argmax())
        if not (room[end] > 0 and worth[end] > slim):
            break
        room[end] -= 1
        changed, node = [end], end
        while node != last:
            came = int(before[node])
            place[mover[came, node]] = node
            changed.append(came)
            node = came
    price = np.zeros(cells.limit.size)
    price[columns] = _paths(gain, np.zeros(last + 1), slim)[0][:-1]
    home = open_to_all[cells.value[open_to_all].argmax(axis=0)]
    return np.where(place == last, home, np.append(columns, cells.m)[place]), price


def _moves(value: FloatArray, place: IntArray, node: int) -> tuple[FloatArray, IntArray]:
    """Return the most that a request in `node` gains in each column, and which request that is."""
    there = np.flatnonzero(place == node)
    if not there.size:
        return np.full(len(value), -np.inf), np.zeros(len(value), dtype=np.int64)
    gain = value[:, there] - value[node, there]
    gain[node] = -np.inf
    best = gain.argmax(axis=1)
    return gain[np.arange(len(value)), best], there[best]


def _paths(gain: FloatArray, begin: FloatArray, slim: float) -> tuple[FloatArray, IntArray]:
    """Return what the best path to each node is worth, where one may `begin`, and the node before it there.

    No cycle gains anything, so that as many rounds do as there are nodes (Bellman and Ford).
    """
    nodes = np.arange(begin.size)
    worth, before = begin, np.full(begin.size, -1)
    for _ in range(begin.size):
        through = worth[:, None] + gain
        best = through.argmax(axis=0)
        most = through[best, nodes]
        better = most > worth + slim
        if not better.any():
            break
        worth, before = np.where(better, most, worth), np.where(better, best, before)
    return worth, before
