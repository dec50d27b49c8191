"""Stage assign, its question: one batch of requests and what the lease still allows.

In: matrices from the estimates of each request and the free slots of the lease (sidecar).
Out: an `AssignmentProblem`, checked once. Next: `solver.assign`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


LARGEST = 1e12
"""Values and uses beyond this count as not finite: sums of them would lose what the others add."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A limit on the batch or on some of its requests: `sum_ij use[i, j] x[i, j] <= limit`.

    Such as money, a share of some models (use only in their columns), a token rate, a tenant's account.
    """

    name: str
    use: FloatArray
    """(n, m), or (k, m) of the k `requests`; where it is not finite or negative, the cell is not eligible."""
    limit: float
    """May be infinite (no limit); a negative limit (overspent) admits only cells that use nothing."""
    requests: IntArray | None = None
    """(k,) numbers of the requests that the row is about, each once; None: all. Rows about different
    requests, such as fifty tenants', together cost no more than one about all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class RowFamily:
    """Rows of which each request meets at most one, in one matrix."""

    use: FloatArray
    """(m, n); 0 where no row of the family is about the request."""
    owner: IntArray
    """(n,) number of the row that is about the request; the number of all rows: none."""
    rows: IntArray
    """Numbers of the family's rows."""
    whole: bool
    """A single row, about every request."""


def families(rows: tuple[Row, ...], n: int, m: int) -> tuple[RowFamily, ...]:
    """Return the rows in as few matrices as their requests allow, those about all requests first."""
    none = len(rows)
    whole: list[RowFamily] = []
    uses: list[FloatArray] = []
    owners: list[IntArray] = []
    members: list[list[int]] = []
    for number, row in enumerate(rows):
        if row.requests is None:
            whole.append(RowFamily(row.use.T, np.full(n, number), np.array([number]), whole=True))
            continue
        apart = (f for f, owner in enumerate(owners) if (owner[row.requests] == none).all())
        f = next(apart, len(owners))
        if f == len(owners):
            uses.append(np.zeros((m, n)))
            owners.append(np.full(n, none))
            members.append([])
        uses[f][:, row.requests] = row.use.T
        owners[f][row.requests] = number
        members[f].append(number)
    some = (
        RowFamily(use, owner, np.array(numbers), whole=False)
        for use, owner, numbers in zip(uses, owners, members, strict=True)
    )
    return (*whole, *some)


@dataclass(frozen=True, slots=True, eq=False)
class AssignmentProblem:
    """n requests, m variants (columns). Formula: design of the programs, section 1.

        max  sum_ij value_ij x_ij - sum_i defer_i z_i
             with value_ij = weight_i quality_ij - slot_price_j service_time_ij - money_price cost_ij
        s.t. sum_j x_ij + z_i = 1;  x_ij <= eligible_ij;  sum_i x_ij <= free_j;  every row;  x, z binary

    A cell whose value is not finite counts as not eligible, so that one bad request harms only itself.
    Raises ValueError when shapes disagree, `defer` is not finite or a row's limit is not a number.
    """

    weight: FloatArray
    """(n,) importance of the request's tier."""
    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) expected USD."""
    service_time: FloatArray
    """(n, m) seconds that the request holds a slot."""
    eligible: BoolArray
    """(n, m)"""
    free: IntArray
    """(m,) leased slots not in use; negative counts as 0."""
    slot_price: FloatArray
    """(m,) published prices, quality per slot-second."""
    money_price: float
    """Reserve price, quality per USD."""
    defer: FloatArray
    """(n,) loss of waiting one more batch (at the deadline: of being shed)."""
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ()
    """(m,) names for `Assignment.binding`; empty: the columns' numbers."""
    value: FloatArray = field(init=False, repr=False)
    """(n, m) coefficient of x; minus infinity where not eligible."""
    families: tuple[RowFamily, ...] = field(init=False, repr=False)
    """The rows, packed."""
    limit: FloatArray = field(init=False, repr=False)
    """(r,) the rows' limits, not negative."""

    def __post_init__(self) -> None:
        n, m = self.quality.shape
        shapes = {
            "weight": (self.weight.shape, (n,)),
            "cost": (self.cost.shape, (n, m)),
            "service_time": (self.service_time.shape, (n, m)),
            "eligible": (self.eligible.shape, (n, m)),
            "free": (self.free.shape, (m,)),
            "slot_price": (self.slot_price.shape, (m,)),
            "defer": (self.defer.shape, (n,)),
        }
        for row in self.rows:
            k = n if row.requests is None else _checked(row.name, row.requests, n)
            shapes[f"row {row.name}"] = (row.use.shape, (k, m))
        for name, (got, wanted) in shapes.items():
            if got != wanted:
                raise ValueError(f"{name} has shape {got} but quality's {(n, m)} asks for {wanted}")
        if self.columns and len(self.columns) != m:
            raise ValueError(f"{len(self.columns)} names for {m} columns; name every column or none")
        if not (np.abs(self.defer) <= LARGEST).all():
            raise ValueError("defer must be finite: the loss of leaving a request out has to be comparable")
        limit = np.array([row.limit for row in self.rows], dtype=np.float64)
        if np.isnan(limit).any():
            raise ValueError("a row's limit is not a number")
        limit = np.maximum(limit, 0.0)
        packed = families(self.rows, n, m)
        most = np.append(np.minimum(limit, LARGEST), np.inf)
        with np.errstate(all="ignore"):
            value = (
                self.weight[:, None] * self.quality
                - self.slot_price * self.service_time
                - self.money_price * self.cost
            )
            usable = self.eligible & (np.abs(value) <= LARGEST) & (self.free > 0)
            for family in packed:
                usable &= ((family.use >= 0) & (family.use <= most[family.owner])).T
        object.__setattr__(self, "value", np.where(usable, value, -np.inf))
        object.__setattr__(self, "families", packed)
        object.__setattr__(self, "limit", limit)

    @property
    def size(self) -> tuple[int, int]:
        """Requests and columns."""
        return self.quality.shape[0], self.quality.shape[1]

    def column(self, j: int) -> str:
        return self.columns[j] if self.columns else str(j)

    def scale(self) -> float:
        """Return `sum_i weight_i max_j quality_ij`, the best conceivable quality; gaps are shares of it."""
        best = np.where(np.isfinite(self.quality), self.quality, 0.0).max(axis=1, initial=0.0)
        weight = np.where(np.isfinite(self.weight), self.weight, 0.0)
        return max(1e-9, float(np.sum(weight * best)))


def _checked(name: str, requests: IntArray, n: int) -> int:
    """Return how many requests a row is about."""
    integers = requests.ndim == 1 and requests.dtype.kind in "iu"
    if not integers or (requests.size and (requests.min() < 0 or requests.max() >= n)):
        raise ValueError(f"row {name} is about requests that are not among the batch's {n}")
    if requests.size and np.bincount(requests).max() > 1:
        raise ValueError(f"row {name} names a request twice")
    return int(requests.size)
