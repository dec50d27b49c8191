"""What policies and methods of an evaluation are called on the page.

In: names of the JSON document. Out: words. Next: tables, plots. Others stand for themselves.
"""

from __future__ import annotations

OURS = "default"
ORACLE = "oracle"
HULL = "hull"
WORDS = {
    OURS: "modelfleet (text only)",
    "default_task": "modelfleet (told the task)",
    "default_kappa_0": "modelfleet (kappa 0)",
    "default_kappa_1": "modelfleet (kappa 1)",
    HULL: "random mixes of constant models",
    "task_mean": "task mean (told the task)",
    "knn_5": "5 nearest neighbours",
    "knn_40": "40 nearest neighbours",
    "ridge": "ridge regression",
    "batch": "modelfleet (batches)",
    "published": "published batch",
    "published_robust": "published batch (robust)",
    "port": "PORT",
    "port_informed": "PORT (weights from past traffic)",
    "batch_split": "BatchSplit",
    "greedy": "greedy in arrival order",
    "congestion": "congestion prices",
    ORACLE: "oracle (hindsight: a bound)",
    "ours": "modelfleet",
    "ours, no reserve price": "modelfleet (no reserve price)",
    "ours, reserve price alone": "modelfleet (reserve price alone)",
    "published batch, robust": "published batch (robust)",
    "PORT, weights from past traffic": "PORT (weights from past traffic)",
    "constants mix": "mix of constant models",
    "greedy marginal gain": "greedy by marginal gain",
}
OF_OURS = "modelfleet"
"""Words of our own policies begin so."""
BY_ESTIMATES = (OURS, "default_task", "task_mean", "ridge", "knn_40", "knn_5")
"""Policies that choose per query by a price: they differ in their estimates alone."""
WITH_BUDGET = (OURS, "batch", "published", "published_robust", "port", "batch_split", "congestion", "greedy")
"""Policies that are given a budget and an order, on the same estimates."""


def words(name: str) -> str:
    """Return what the page calls `name`."""
    return WORDS.get(name, name)


def own(name: str) -> bool:
    """Return whether `name` is one of ours: shown, but not counted as won or lost."""
    return words(name).startswith(OF_OURS)
