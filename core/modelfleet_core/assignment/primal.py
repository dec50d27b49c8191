"""Stage assign, the choice: from prices to an assignment that breaks no limit.

In: a problem and prices from `dual`. Out: a column per request, -1 where it waits. Next: `certificate`.

1. Every request asks for its best column at the prices; full columns keep those who would lose most.
2. Rows that are over move requests to what they lose least by, per unit of the row, until all fit.
3. Exchanges: positive cycles in the graph of columns (with waiting and spare room as nodes) improve
   the priced value; without rows this ends at the optimum.
4. What rows have left is spent on the moves that gain most.
5. Pairs of moves that the prices nearly allow, one making room for the other, use what is left still better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelfleet_core.assignment.certificate import usage
from modelfleet_core.assignment.problem import AssignmentProblem, FloatArray, IntArray
from modelfleet_core.assignment.result import Prices

_EPS = 1e-9
_NEAR = 160
_PAIRS = 100


class _Primal:
    """One choice under construction; `waiting` (column m) is a column of unlimited room and use 0."""

    def __init__(self, problem: AssignmentProblem, prices: Prices) -> None:
        n, m = problem.size
        self.problem = problem
        self.waiting = m
        usable = np.isfinite(problem.value)
        self.value: FloatArray = np.column_stack([problem.value, -problem.defer])
        self.use: FloatArray = np.zeros((len(problem.rows), n, m + 1))
        for r, row in enumerate(problem.rows):
            self.use[r, :, :m] = np.where(usable, row.use, 0.0)
        most = self.use.max(axis=2).sum(axis=1) if problem.rows else np.zeros(0)
        self.limit: FloatArray = np.clip([row.limit for row in problem.rows], 0.0, 2.0 * most)
        self.priced: FloatArray = self.value.copy()
        for use, price in zip(self.use, prices.rows, strict=True):
            if price > 0:
                self.priced -= price * use
        self.capacity: IntArray = np.append(np.clip(problem.free, 0, n), n)
        self.room: IntArray = self.capacity.copy()
        self.used: FloatArray = np.zeros(len(problem.rows))
        self.choice: IntArray = np.full(n, m, dtype=np.int64)
        self.at = np.arange(n)

    def take(self, choice: IntArray) -> None:
        """Start from a given choice."""
        self.choice = np.where(choice < 0, self.waiting, choice)
        self._recount()

    def _recount(self) -> None:
        self.room = self.capacity - np.bincount(self.choice, minlength=self.waiting + 1)
        self.used = self.use[:, self.at, self.choice].sum(axis=1)

    def _move(self, i: int, k: int) -> None:
        c = self.choice[i]
        self.room[c] += 1
        self.room[k] -= 1
        self.used += self.use[:, i, k] - self.use[:, i, c]
        self.choice[i] = k

    def ask(self, slot_prices: FloatArray) -> None:
        """Step 1, in rounds: each fills a column or ends."""
        wish = self.priced.copy()
        wish[:, : self.waiting] -= slot_prices
        left = self.at
        while left.size:
            open_wish = np.where(self.room > 0, wish[left], -np.inf)
            best = open_wish.argmax(axis=1)
            top = open_wish[np.arange(left.size), best]
            open_wish[np.arange(left.size), best] = -np.inf
            # The column of waiting has room for everyone, so there is always a second best but for itself.
            regret = top - np.maximum(open_wish.max(axis=1), -self.problem.defer[left])
            order = np.lexsort((-regret, best))
            column = best[order]
            rank = np.arange(left.size) - np.searchsorted(column, column)
            placed = rank < self.room[column]
            self.choice[left[order[placed]]] = column[placed]
            self.room -= np.bincount(column[placed], minlength=self.waiting + 1)
            left = np.sort(left[order[~placed]])
        self._recount()

    def fit_rows(self) -> None:
        """Step 2."""
        for _ in range(len(self.limit)):
            over = self.used - self.limit
            if (over <= 0).all():
                return
            self._relieve(int(np.argmax(over / np.maximum(self.limit, _EPS))))
        if (self.used > self.limit).any():
            self._evict()

    def _relieve(self, r: int) -> None:
        """Move requests to columns with room that use less of row r, the cheapest per unit it is over first.

        A move that saves more than is needed counts as saving just that, so the order changes on the way.
        """
        over = self.used[r] - self.limit[r]
        while over > 0:
            saved = self.use[r, self.at, self.choice][:, None] - self.use[r]
            loss = self.priced[self.at, self.choice][:, None] - self.priced
            possible = (saved > 0) & (self.room > 0)
            ratio = np.where(possible, loss / np.where(possible, np.minimum(saved, over), 1.0), np.inf)
            i, k = np.unravel_index(np.argsort(ratio, axis=None, kind="stable"), ratio.shape)
            moved: set[int] = set()
            for a, b in zip(i.tolist(), k.tolist(), strict=True):
                if self.used[r] - self.limit[r] <= 0.5 * over or not possible[a, b]:
                    break
                if a not in moved and self.room[b] > 0:
                    self._move(a, b)
                    moved.add(a)
            if not moved:
                return
            over = self.used[r] - self.limit[r]

    def answer(self) -> IntArray:
        """Return the choice, after sums that do not depend on their order have confirmed every row."""
        while True:
            choice = np.where(self.choice == self.waiting, -1, self.choice)
            over = [
                r
                for r, used in enumerate(usage(self.problem, choice)[1])
                if used > max(self.problem.rows[r].limit, 0.0)
            ]
            if not over:
                return choice
            share = self.use[over][:, self.at, self.choice].sum(axis=0)
            loss = self.value[self.at, self.choice] - self.value[:, self.waiting]
            self._move(int(np.where(share > 0, loss, np.inf).argmin()), self.waiting)

    def _evict(self) -> None:
        """Send to waiting what gains least per share of the rows, until every row fits."""
        share = (self.use[:, self.at, self.choice] / np.maximum(self.limit, _EPS)[:, None]).sum(axis=0)
        gain = self.value[self.at, self.choice] - self.value[:, self.waiting]
        for i in np.argsort(gain / np.maximum(share, _EPS), kind="stable").tolist():
            if (self.used <= self.limit).all():
                return
            if share[i] > 0:
                self._move(i, self.waiting)

    def exchange(self, remaining: Callable[[], float]) -> None:
        """Step 3."""
        nodes = self.waiting + 2
        spare = self.waiting + 1
        gain = np.full((nodes, nodes), -np.inf)
        mover = np.full((nodes, nodes), -1, dtype=np.int64)
        gain[spare, :spare] = 0.0
        stale = list(range(spare))
        banned = np.zeros(self.priced.shape, dtype=bool)
        for _ in range(4 * self.at.size + 16):
            if remaining() <= 0:
                return
            for a in stale:
                members = np.flatnonzero(self.choice == a)
                gain[a, :spare] = -np.inf
                if members.size:
                    delta = self.priced[members] - self.priced[members, a][:, None]
                    delta[banned[members]] = -np.inf
                    mover[a, :spare] = members[delta.argmax(axis=0)]
                    gain[a, :spare] = delta.max(axis=0)
                gain[a, a] = -np.inf
            gain[:spare, spare] = np.where(self.room > 0, 0.0, -np.inf)
            cycle = _positive_cycle(gain)
            if not cycle:
                return
            moves = [
                (int(mover[a, b]), b)
                for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True)
                if spare not in (a, b)
            ]
            change = sum(
                (self.use[:, i, b] - self.use[:, i, self.choice[i]] for i, b in moves),
                start=np.zeros(self.limit.size),
            )
            if (self.used + np.maximum(change, 0.0) <= self.limit).all():
                for i, b in moves:
                    self._move(i, b)
                stale = [a for a in cycle if a != spare]
            else:
                # A row has no room for this one: without its most expensive move, others are found.
                banned[max(moves, key=lambda move: float(self._more(*move)))] = True
                stale = [a for a in cycle if a != spare]

    def _more(self, i: int, k: int) -> float:
        """Share of the rows' limits that moving i to k takes in addition."""
        extra = self.use[:, i, k] - self.use[:, i, self.choice[i]]
        return float((extra / np.maximum(self.limit, _EPS)).max(initial=0.0))

    def spend(self, remaining: Callable[[], float]) -> None:
        """Step 4."""
        while remaining() > 0:
            gain = self.value - self.value[self.at, self.choice][:, None]
            allowed = (gain > _EPS) & (self.room > 0)
            for r in range(self.limit.size):
                more = self.use[r] - self.use[r, self.at, self.choice][:, None]
                allowed &= more <= max(0.0, self.limit[r] - self.used[r])
            i, k = np.nonzero(allowed)
            if not i.size:
                return
            for at in np.argsort(-gain[i, k], kind="stable").tolist():
                a, b = int(i[at]), int(k[at])
                change = self.use[:, a, b] - self.use[:, a, self.choice[a]]
                better = self.value[a, b] > self.value[a, self.choice[a]] + _EPS
                if better and self.room[b] > 0 and (self.used + np.maximum(change, 0.0) <= self.limit).all():
                    self._move(a, b)

    def pair(self, remaining: Callable[[], float]) -> None:
        """Step 5."""
        if not (self.priced < self.value).any():
            return  # no row has a price: exchanges have found the optimum
        for _ in range(_PAIRS):
            if remaining() <= 0:
                return
            loss = self.priced[self.at, self.choice][:, None] - self.priced
            loss[self.at, self.choice] = np.inf
            near = np.argpartition(loss, min(_NEAR, loss.size - 1), axis=None)[:_NEAR]
            near = near[np.isfinite(loss.ravel()[near])]
            i, k = np.unravel_index(near, loss.shape)
            c = self.choice[i]
            gain = self.value[i, k] - self.value[i, c]
            more = self.use[:, i, k] - self.use[:, i, c]
            both = gain[:, None] + gain[None, :]
            leaves = c[:, None] == k[None, :]
            room = self.room[k]
            allowed = (both > _EPS) & (i[:, None] != i[None, :])
            allowed &= ((room > 0)[None, :] | leaves) & ((room > 0)[:, None] | leaves.T)
            allowed &= (k[:, None] != k[None, :]) | (room > 1)[:, None]
            for r in range(self.limit.size):
                extra = more[r][:, None] + more[r][None, :]
                allowed &= extra <= max(0.0, self.limit[r] - self.used[r])
            best = int(np.where(allowed, both, -np.inf).argmax())
            a, b = divmod(best, near.size) if near.size else (0, 0)
            if not near.size or not allowed[a, b]:
                return
            self._move(int(i[a]), int(k[a]))
            self._move(int(i[b]), int(k[b]))


def _positive_cycle(gain: FloatArray) -> list[int]:
    """Return the nodes of a shortest cycle of positive gain, the best of its length; empty: there is none."""
    best = gain
    steps: list[IntArray] = []
    for _ in range(len(gain) - 1):
        longer = best[:, :, None] + gain[None, :, :]
        via = longer.argmax(axis=1)
        best = longer.max(axis=1)
        steps.append(via)
        top = int(np.argmax(np.diagonal(best)))
        if best[top, top] > _EPS:
            cycle = [top]
            node = top
            for step in reversed(steps):
                node = int(step[top, node])
                cycle.append(node)
            return [cycle[0], *reversed(cycle[1:])]
    return []


def choose(problem: AssignmentProblem, prices: Prices, *, remaining: Callable[[], float]) -> IntArray:
    """Return a column per request (-1: waits), within every limit, whatever `remaining()` says."""
    primal = _Primal(problem, prices)
    primal.ask(prices.slots)
    primal.fit_rows()
    primal.exchange(remaining)
    primal.spend(remaining)
    primal.pair(remaining)
    return primal.answer()


def repair(
    problem: AssignmentProblem, prices: Prices, choice: IntArray, *, remaining: Callable[[], float]
) -> IntArray:
    """Return `choice` (eligible, within the slots) with every row kept, and improved if time allows."""
    primal = _Primal(problem, prices)
    primal.take(choice)
    primal.fit_rows()
    primal.spend(remaining)
    return primal.answer()
