"""Stage assign, the program in arrays: one column more, for waiting, and only limits that may bind.

In: an `AssignmentProblem`. Out: `Cells`, what `dual` prices and `primal` chooses by.

Arrays are (m + 1, n), so that sums over the few columns run along the many requests. The limits are the m
columns' slots and then the rows that some choice would break; a `price` is a vector over these. Rows are
divided by their largest use, so that all prices are like values.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.problem import AssignmentProblem, BoolArray, FloatArray, IntArray
from modelfleet_core.assignment.result import Prices

_PHI = 0.6180339887498949
_HIGHEST = 1e280
"""Of prices in the problem's units: those of rows in far too small a unit would not be finite."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sparse:
    """Rows about different requests."""

    use: FloatArray
    """(m + 1, n)"""
    at: slice
    """Their limits."""
    about: FloatArray
    """(n, rows) 1 where the row is about the request, else 0."""


class Cells:
    """n requests, m columns and waiting, `limit.size` limits, f families of rows."""

    def __init__(self, problem: AssignmentProblem) -> None:
        n, m = problem.size
        self.n, self.m = n, m
        self._problem_rows = len(problem.rows)
        self.usable: BoolArray = np.ones((m + 1, n), dtype=bool)
        np.isfinite(problem.value.T, out=self.usable[:m])
        self.value: FloatArray = np.empty((m + 1, n))
        """Minus infinity where not eligible; the last: of waiting."""
        self.value[:m] = problem.value.T
        self.value[m] = -problem.defer
        dense: list[tuple[int, FloatArray, float]] = []
        sparse: list[tuple[IntArray, FloatArray, FloatArray, IntArray]] = []
        for family in problem.families:
            use = np.zeros((m + 1, n))
            np.copyto(use[:m], family.use, where=self.usable[:m])
            highest = use.max(axis=0)
            if family.whole:
                row = int(family.rows[0])
                if float(highest.sum()) > problem.limit[row]:
                    scale = float(highest.max())
                    use /= scale
                    dense.append((row, use, scale))
                continue
            sums = np.bincount(family.owner, highest, minlength=self._problem_rows + 1)
            rows = family.rows[sums[family.rows] > problem.limit[family.rows]]
            if not rows.size:
                continue
            mine = family.owner[:, None] == rows
            scales = (mine * highest[:, None]).max(axis=0)
            known = mine.any(axis=1)
            place = np.where(known, mine.argmax(axis=1), rows.size)
            use *= np.append(1.0 / scales, 0.0)[place]
            sparse.append((rows, use, scales, place))
        self.rows: IntArray = np.concatenate(
            [np.array([row for row, _, _ in dense], dtype=np.int64), *(rows for rows, _, _, _ in sparse)]
        )
        """Numbers of the rows that may bind, in the order of their limits."""
        self.scale: FloatArray = np.concatenate(
            [np.array([scale for _, _, scale in dense]), *(scales for _, _, scales, _ in sparse)]
        )
        """What their units were divided by."""
        self.use: FloatArray = np.array([*(use for _, use, _ in dense), *(use for _, use, _, _ in sparse)])
        """(f, m + 1, n) use of the family's row that is about the request; 0 where not eligible or none."""
        self.use = self.use.reshape(len(dense) + len(sparse), m + 1, n)
        self._dense = self.use[: len(dense)]
        self._flat = self._dense.reshape(len(dense), (m + 1) * n)
        first = m + len(dense)
        self.owner: IntArray = np.empty((len(self.use), n), dtype=np.int64)
        """(f, n) limit of that row; `limit.size`: none."""
        self.owner[: len(dense)] = np.arange(m, first)[:, None]
        self._sparse: list[_Sparse] = []
        for f, (rows, use, _, place) in enumerate(sparse, start=len(dense)):
            self.owner[f] = np.where(place < rows.size, first + place, m + self.rows.size)
            about = (place[:, None] == np.arange(rows.size)).astype(np.float64)
            self._sparse.append(_Sparse(use, slice(first, first + rows.size), about))
            first += rows.size
        self.typical: FloatArray = np.ones(m + self.rows.size)
        """(limits,) use of a cell that uses some, those that use more counting more."""
        for use, owner in zip(self.use, self.owner, strict=True):
            once = np.bincount(owner, use.sum(axis=0), minlength=m + self.rows.size + 1)[:-1]
            twice = np.bincount(owner, np.square(use).sum(axis=0), minlength=m + self.rows.size + 1)[:-1]
            np.divide(twice, once, out=self.typical, where=once > 0)
        self.limit: FloatArray = np.append(
            np.minimum(np.maximum(problem.free, 0), n), problem.limit[self.rows] / self.scale
        )

    def sample(self, size: int) -> Cells:
        """Return a problem of about `size` of the requests and as large a part of the limits.

        They are taken evenly but in no rhythm, as requests may come in some.
        """
        who = np.unique((np.arange(size) * _PHI % 1.0 * self.n).astype(np.int64))
        part = copy.copy(self)
        part.n = who.size
        part.usable, part.value = self.usable[:, who], self.value[:, who]
        part.use, part.owner = np.ascontiguousarray(self.use[:, :, who]), self.owner[:, who]
        part._dense = part.use[: len(self._dense)]
        part._flat = part._dense.reshape(len(self._dense), part._dense.shape[1] * who.size)
        part._sparse = [
            _Sparse(use, rows.at, rows.about[who])
            for use, rows in zip(part.use[len(self._dense) :], self._sparse, strict=True)
        ]
        part.limit = self.limit * (who.size / self.n)
        return part

    def tightened(self) -> Cells:
        """Return the same with a little less of each row, for sums that came out above by rounding."""
        part = copy.copy(self)
        part.limit = self.limit.copy()
        part.limit[self.m :] *= 1.0 - 1e-9
        return part

    def prices(self, price: FloatArray) -> Prices:
        """Return prices in the problem's own units; rows that can not bind have none."""
        rows = np.zeros(self._problem_rows)
        with np.errstate(over="ignore"):
            rows[self.rows] = np.minimum(price[self.m :] / self.scale, _HIGHEST)
        return Prices(slots=price[: self.m].copy(), rows=rows)

    def price(self, prices: Prices) -> FloatArray:
        return np.append(prices.slots, prices.rows[self.rows] * self.scale)

    def charge(self, price: FloatArray) -> FloatArray:
        """Return what each cell pays, (m + 1, n)."""
        m, dense = self.m, len(self._dense)
        if dense:
            charge = (price[m : m + dense] @ self._flat).reshape(m + 1, self.n)
        else:
            charge = np.zeros((m + 1, self.n))
        for rows in self._sparse:
            charge += (rows.about @ price[rows.at]) * rows.use
        charge[:m] += price[:m, None]
        return charge

    def load(self, x: FloatArray) -> FloatArray:
        """Return what `x` (m + 1, n) uses of each limit."""
        m, dense = self.m, len(self._dense)
        load = np.empty(self.limit.size)
        x[:m].sum(axis=1, out=load[:m])
        if dense:
            np.matmul(self._flat, x.reshape(-1), out=load[m : m + dense])
        for rows in self._sparse:
            load[rows.at] = np.einsum("kn,kn->n", rows.use, x) @ rows.about
        return load

    def curvature(self, x: FloatArray, total: FloatArray) -> FloatArray:
        """Return sum_i (sum_k x a a' - (sum_k x a) (sum_k x a)' / total), (limits, limits).

        a: what a cell uses of each limit; `total` (n,): sum_k x.
        """
        m, dense = self.m, len(self._dense)
        matrix = np.zeros((self.limit.size, self.limit.size))
        inverse = 1.0 / total
        slots = x[:m]
        part = slots * inverse
        np.matmul(part, slots.T, out=matrix[:m, :m])
        np.negative(matrix[:m, :m], out=matrix[:m, :m])
        matrix[np.arange(m), np.arange(m)] += slots.sum(axis=1)
        if dense:
            weighted = self._dense * x
            mean = weighted.sum(axis=1)
            d = slice(m, m + dense)
            matrix[d, d] = weighted.reshape(self._flat.shape) @ self._flat.T - (mean * inverse) @ mean.T
            cross = weighted[:, :m].sum(axis=2) - mean @ part.T
            matrix[d, :m] = cross
            matrix[:m, d] = cross.T
        done: list[tuple[_Sparse, FloatArray]] = []
        for rows in self._sparse:
            mine = rows.use * x
            middle = mine.sum(axis=0)
            there = np.arange(rows.at.start, rows.at.stop)
            matrix[there, there] = (
                np.einsum("kn,kn->n", mine, rows.use) - middle * middle * inverse
            ) @ rows.about
            cross = (mine[:m] - middle * part) @ rows.about
            matrix[:m, rows.at] = cross
            matrix[rows.at, :m] = cross.T
            if dense:
                both = np.einsum("dkn,kn->dn", self._dense, mine) - mean * (middle * inverse)
                cross = both @ rows.about
                matrix[d, rows.at] = cross
                matrix[rows.at, d] = cross.T
            for others, their_middle in done:
                weight = np.einsum("kn,kn->n", mine, others.use) - middle * their_middle * inverse
                cross = (others.about * weight[:, None]).T @ rows.about
                matrix[others.at, rows.at] = cross
                matrix[rows.at, others.at] = cross.T
            done.append((rows, middle))
        return matrix
