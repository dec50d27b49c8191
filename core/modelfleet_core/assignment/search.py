"""Stage assign, the last parts in a thousand: moves of a few requests that together use what is left.

In: a choice within the slots, what each cell loses at the prices, and the bound. Out: a better choice that
breaks no limit, if one is found. Next: `certificate`.

At the best prices a choice falls short of the bound by the losses of its cells and by what priced limits
have left. Both are small only for few combinations of cells that lose little. They are searched by beams:
states are changed by one move after the other, may break limits meanwhile, and are ranked by what they
lose and break. A move is one cell, or two that leave every column's slots kept, such as a swap: with full
columns a single one would rank last, although the next makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.primal import excess, tolerance, worth
from modelfleet_core.assignment.problem import BoolArray, FloatArray, IntArray

_CELLS = 128
_MOVES = 200
"""These two for an effort of 1."""
_POOL = 12
"""Times the cells: what they are taken from."""
_PAIRS = 4000
_WIDTH = 12
_DEPTH = 5
_SINGLES_DEPTH = 20
_PHI = 0.6180339887498949
_TURN = 0.7548776662466927
_URGENCY = (1.5, 1.1, 2.5, 1.3, 4.0, 1.2)
"""What a limit's breach costs in multiples of its price, by round."""
_BREACH = 1.3
"""The same where moves are chosen."""
_PATIENCE = 1
"""Rounds without success after which it ends."""


@dataclass(frozen=True, slots=True, eq=False)
class _Moves:
    request: IntArray
    """(moves, 2) the requests moved; -1 in the second place: a single one."""
    column: IntArray
    """(moves, 2) where to."""
    change: FloatArray
    """(moves, limits) of loads."""
    lost: FloatArray
    """(moves,) value."""
    loss: FloatArray
    """(moves,) of cells at the prices."""


def _selected(cells: Cells, loss: FloatArray, choice: IntArray, grain: float, turn: int, most: int) -> _Moves:
    """Return `most` cells that lose least, of each pair of columns some; those within a grain take turns."""
    relative = loss - loss[choice, np.arange(cells.n)]
    relative[choice, np.arange(cells.n)] = np.inf
    flat = relative.ravel()
    pool = min(_POOL * most, flat.size)
    pick = np.argpartition(flat, pool - 1)[:pool]
    pick = pick[np.isfinite(flat[pick])]
    column, request = np.divmod(pick, cells.n)
    order = np.floor(flat[pick] / grain) + (pick * _PHI + turn * _TURN) % 1.0
    pair = choice[request] * (cells.m + 1) + column
    sort = np.lexsort((order, pair))
    rank = np.empty(sort.size, dtype=np.int64)
    rank[sort] = np.arange(sort.size) - np.searchsorted(pair[sort], pair[sort])
    keep = np.lexsort((order, rank))[:most]
    i, k, loss_of = request[keep], column[keep], flat[pick[keep]]
    c = choice[i]
    at = np.arange(i.size)
    change = np.zeros((i.size, cells.limit.size + 1))
    change[at, np.where(k < cells.m, k, -1)] += 1.0
    change[at, np.where(c < cells.m, c, -1)] -= 1.0
    for use, owner in zip(cells.use, cells.owner, strict=True):
        change[at, owner[i]] += use[k, i] - use[c, i]
    nobody = np.full(i.size, -1)
    return _Moves(
        request=np.column_stack([i, nobody]),
        column=np.column_stack([k, nobody]),
        change=change[:, :-1],
        lost=cells.value[c, i] - cells.value[k, i],
        loss=loss_of,
    )


def _kept(
    order: FloatArray, lost: FloatArray, change: FloatArray, over: FloatArray, price: FloatArray, count: int
) -> IntArray:
    """Return `count` moves to keep: one half are first in `order`, the other those that alone help most.

    Where many requests are alike, many pairs lose nothing and change nothing: the first half are such.
    """
    half = count // 2
    by_order = np.argpartition(order, half)
    rest = by_order[half:]
    score = lost[rest] + _BREACH * (np.maximum(over + change[rest], 0.0) @ price)
    helping = np.argpartition(score, half - 1)[:half]
    return np.concatenate([by_order[:half], rest[helping]])


def _paired(
    cells: Cells,
    single: _Moves,
    choice: IntArray,
    over: FloatArray,
    price: FloatArray,
    most: float,
    grain: float,
    turn: int,
    count: int,
) -> _Moves:
    """Return at most `count` single moves and pairs that keep the slots and lose less than `most`."""
    m = cells.m
    i, k = single.request[:, 0], single.column[:, 0]
    c = choice[i]
    room = np.append(-over[:m], np.inf)[k]
    follows = c[:, None] == k
    fits = (i[:, None] < i) & ((room >= 1) | follows) & ((room >= 1)[:, None] | follows.T)
    fits &= (k[:, None] != k) | (room >= 2)[:, None]
    together = single.loss[:, None] + single.loss
    fits &= together < most
    a, b = np.nonzero(fits)
    alone = np.flatnonzero((room >= 1) & (single.loss < most))
    first = np.concatenate([alone, a])
    second = np.concatenate([np.full(alone.size, -1), b])
    loss = np.concatenate([single.loss[alone], together[a, b]])
    order = np.floor(loss / grain) + (np.arange(loss.size) * _PHI + turn * _TURN) % 1.0
    if first.size > _PAIRS:
        keep = np.argpartition(order, _PAIRS - 1)[:_PAIRS]
        first, second, loss, order = first[keep], second[keep], loss[keep], order[keep]
    two = second >= 0
    change = single.change[first] + np.where(two[:, None], single.change[second], 0.0)
    lost = single.lost[first] + np.where(two, single.lost[second], 0.0)
    if first.size > count:
        keep = _kept(order, lost, change, over, price, count)
        first, second, two = first[keep], second[keep], two[keep]
        change, lost, loss = change[keep], lost[keep], loss[keep]
    return _Moves(
        request=np.column_stack([i[first], np.where(two, i[second], -1)]),
        column=np.column_stack([k[first], np.where(two, k[second], -1)]),
        change=change,
        lost=lost,
        loss=loss,
    )


def _conflicts(moves: _Moves) -> BoolArray:
    """Return which moves have a request in common, (moves, moves)."""
    a, b = moves.request[:, 0], moves.request[:, 1]
    crossed: BoolArray = a[:, None] == b
    common: BoolArray = (a[:, None] == a) | crossed | crossed.T | ((b[:, None] == b) & (b >= 0))
    return common


def _beam(
    moves: _Moves,
    over: FloatArray,
    slim: FloatArray,
    price: FloatArray,
    *,
    urgency: float,
    short: float,
    loss: float,
    best: float,
    enough: float,
    depth: int,
    remaining: Callable[[], float],
) -> tuple[float, IntArray]:
    """Return the least shortfall below `best` and the moves that reach it; none: there are none.

    `short`, `loss`: the shortfall and the losses at the start; ends once `enough` is reached.
    """
    nothing = np.zeros(0, dtype=np.int64)
    size = moves.lost.size
    if not size:
        return best, nothing
    over = over - slim
    # Limits that not even the moves that take most could break need no look.
    touched = (over > 0.0) | (over + depth * moves.change.max(axis=0) > 0.0)
    # Limits come first, so that sums run along the many moves and not along the few limits.
    change = np.ascontiguousarray(moves.change[:, touched].T)
    mean = np.maximum(np.abs(change).mean(axis=1), 1e-12)
    # Also a limit without a price must not be broken.
    middle = float(np.partition(moves.loss, size // 2)[size // 2])
    weight = urgency * price[touched] + 0.2 * max(middle, 0.1 * enough) / mean
    conflict = _conflicts(moves)
    state = over[touched][:, None]
    shortfall, losses = np.array([short]), np.array([loss])
    used = np.zeros((1, size), dtype=bool)
    trace = np.empty((1, 0), dtype=np.int64)
    found = nothing
    for _ in range(depth):
        after = state[:, :, None] + change[:, None, :]
        np.maximum(after, 0.0, out=after)
        broken = (weight @ after.reshape(weight.size, shortfall.size * size)).reshape(-1, size)
        there = shortfall[:, None] + moves.lost
        lost = losses[:, None] + moves.loss
        # What loses more than the best falls short by can not become better.
        useless = used | (lost >= best)
        score = np.where(useless, np.inf, there + broken).ravel()
        kept = np.where((broken > 0.0) | useless, np.inf, there).ravel()
        top = int(kept.argmin())
        if kept[top] < best - 1e-12:
            s, move = divmod(top, size)
            best, found = float(kept[top]), np.append(trace[s], move)
            if best <= enough:
                break
        if remaining() <= 0:
            break
        wide = min(3 * _WIDTH, score.size)
        order = np.argpartition(score, wide - 1)[:wide]
        order = order[np.argsort(score[order], kind="stable")]
        sorted_score = score[order]
        # The same moves in another sequence have the same score.
        fresh = np.isfinite(sorted_score)
        fresh[1:] &= sorted_score[1:] > sorted_score[:-1] + 1e-11
        order = order[fresh][:_WIDTH]
        if not order.size:
            break
        parent, child = np.divmod(order, size)
        state = state[:, parent] + change[:, child]
        shortfall, losses = there.ravel()[order], lost.ravel()[order]
        used = used[parent] | conflict[child]
        trace = np.column_stack([trace[parent], child])
    return best, found


def improve(
    cells: Cells,
    choice: IntArray,
    price: FloatArray,
    loss: FloatArray,
    *,
    bound: float,
    best: float,
    enough: float,
    grain: float,
    turns: range,
    effort: int,
    remaining: Callable[[], float],
) -> IntArray | None:
    """Return a choice within all limits that falls short of `bound` by less than `best`; None: none found.

    `choice` keeps the slots, perhaps not the rows; `loss` (m + 1, n) of cells at `price`. Rounds are told
    apart by `turns`; `effort` multiplies the moves that each looks at. It ends when the shortfall is
    `enough`, time is up or rounds find nothing.
    """
    slim = tolerance(cells)
    at = np.arange(cells.n)
    answer = None
    idle = 0
    for turn in turns:
        if idle >= _PATIENCE or remaining() <= 0:
            break
        over = excess(cells, choice)
        losses = float(loss[choice, at].sum())
        moves = _selected(cells, loss, choice, grain, turn, effort * _CELLS)
        alone = turn % 3 == 2
        if not alone:
            moves = _paired(cells, moves, choice, over, price, best - losses, grain, turn, effort * _MOVES)
        best, found = _beam(
            moves,
            over,
            slim,
            price,
            urgency=_URGENCY[turn % len(_URGENCY)],
            short=bound - worth(cells, choice),
            loss=losses,
            best=best,
            enough=enough,
            depth=_SINGLES_DEPTH if alone else _DEPTH,
            remaining=remaining,
        )
        idle += 1
        if found.size:
            idle = 0
            choice = choice.copy()
            request, column = moves.request[found].ravel(), moves.column[found].ravel()
            choice[request[request >= 0]] = column[request >= 0]
            answer = choice
            if best <= enough:
                break
    return answer
