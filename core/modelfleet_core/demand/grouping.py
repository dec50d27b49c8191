"""Stage observe, few classes of many cells: the nearest are joined until few enough are left (Ward).

In: cells of one policy with rates and what models offer them. Out: a label per cell. Next: `joining` gives
each class the means of its cells, so that value, time and cost in all stay what they were.

At any prices a class is worth, per request, the best of its means; its cells would choose each for itself.
By Jensen's inequality the classes' dual is below the cells' by at least 0 and at most `error`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelfleet_core.demand.classes import FloatArray

IntArray = npt.NDArray[np.int64]


def grouped(
    rate: FloatArray,
    *,
    value: FloatArray,
    penalty: FloatArray,
    cost: FloatArray,
    seconds: FloatArray,
    most: int,
) -> IntArray:
    """Return a label below `most` for each of n cells.

    `rate`, `penalty`: (n,); `value` (quality times weight; where a model may not serve: what shedding costs),
    `cost` (USD), `seconds`: (n, models). Two classes are the nearer, the less `rate`-weighted square distance
    their union has; USD and seconds count as what value is asked for them on average.
    """
    n = len(rate)
    if n <= most:
        return np.arange(n)
    worth = float(rate @ (value.mean(axis=1) + penalty))
    features = np.hstack(
        [
            value,
            penalty[:, None],
            cost * _price(worth, float(rate @ cost.mean(axis=1))),
            seconds * _price(worth, float(rate @ seconds.mean(axis=1))),
        ]
    )
    mass = rate.astype(np.float64).copy()
    squares = (features**2).sum(axis=1)
    apart = np.maximum(0.0, squares[:, None] + squares - 2.0 * features @ features.T)
    loss = apart * (mass[:, None] * mass / (mass[:, None] + mass))
    np.fill_diagonal(loss, np.inf)
    labels = np.arange(n)
    for _ in range(n - most):
        i, j = divmod(int(loss.argmin()), n)
        i, j = min(i, j), max(i, j)
        features[i] = (mass[i] * features[i] + mass[j] * features[j]) / (mass[i] + mass[j])
        mass[i] += mass[j]
        labels[labels == j] = i
        alone = np.isinf(loss[i])
        alone[j] = True
        row = ((features - features[i]) ** 2).sum(axis=1) * (mass * mass[i] / (mass + mass[i]))
        row[alone] = np.inf
        loss[i], loss[:, i] = row, row
        loss[j], loss[:, j] = np.inf, np.inf
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def error(rate: FloatArray, labels: IntArray, priced: FloatArray) -> float:
    """Return by how much, at most, the classes' dual is below that of the cells at some prices.

    `priced`: (n, choices), value less prices of each model, and of shedding. Source: the maximum is
    1-Lipschitz in the largest deviation, so `sum_k rate_k max_j |priced_kj - mean of its class|` bounds it.
    """
    member = labels[:, None] == np.arange(int(labels.max()) + 1)
    weight = member * rate[:, None]
    mean = (weight.T @ priced) / np.maximum(weight.sum(axis=0), 1e-300)[:, None]
    return float(rate @ np.abs(priced - mean[labels]).max(axis=1))


def _price(worth: float, amount: float) -> float:
    return abs(worth) / amount if amount > 0 else 0.0
