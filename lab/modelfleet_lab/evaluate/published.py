"""The measures of the literature, on the curves of this evaluation.

In: policies' curves, the constant models. Out: numbers by name. Next: `result`.

They were made for other settings (one pair of models, one setting of a router). Each function says where its
definition comes from and what had to change; none of them is what this project steers by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from modelfleet_lab.evaluate.curves import Curve
from modelfleet_lab.evaluate.sweeps import Played
from modelfleet_lab.methods import FloatArray

THRESHOLDS = (20, 50, 80)
"""Percent of the gap whose CPT is told."""
_BETA = 0.1
_COST_MOST, _COST_LEAST = 200.0, 0.0044
"""USD per 1000 queries between which RouterArena places costs."""
_STEPS = 1001


def aiq(of: Curve, dearest: float) -> float:
    """Return the average improvement in quality: the mean height of the hull over costs from 0 to `dearest`.

    Source: Hu et al., RouterBench, arXiv 2403.12031, section 3: the area under the non-decreasing convex hull
    divided by the span of costs. As in the authors' code (withmartian/routerbench, evaluation/AIQ.py) every
    hull goes on level to the largest cost of any router and the area is divided by it. Changed: the hull
    begins at the origin, not at the router's own cheapest point, and the largest cost is that of the dearest
    model, so that one policy's figure does not depend on which others are compared.
    """
    if dearest <= 0:
        return float("nan")
    cost = np.linspace(0.0, dearest, _STEPS)
    return float(np.trapezoid(np.interp(cost, of.cost, of.quality), cost) / dearest)


def gap_recovered(
    of: Curve, weak: tuple[float, float], strong: tuple[float, float]
) -> tuple[float, Mapping[int, float]]:
    """Return (APGR, {percent: CPT}) between two constant models, each (cost, quality).

    Source: Ong et al., RouteLLM, arXiv 2406.18665, section 3: PGR = (quality - weak) / (strong - weak), APGR
    its mean over the share of calls to the strong model, CPT(x) the least share of such calls for a PGR of x.
    Changed: there are more than two models, so that calls to "the strong one" say nothing; the share of the
    way from the weak model's cost to the strong one's takes their place. Strong is the best single model of
    the past, weak the cheapest. Not a number where strong is not better and dearer than weak; infinite where
    the share is not reached.
    """
    span, gap = strong[0] - weak[0], strong[1] - weak[1]
    if span <= 0 or gap <= 0:
        return float("nan"), dict.fromkeys(THRESHOLDS, float("nan"))
    share = np.linspace(0.0, 1.0, _STEPS)
    quality = np.interp(weak[0] + share * span, of.cost, of.quality)
    recovered = (quality - weak[1]) / gap
    thresholds = {
        percent: max(0.0, (of.cost_of(weak[1] + percent / 100 * gap) - weak[0]) / span)
        for percent in THRESHOLDS
    }
    return float(np.trapezoid(recovered, share)), thresholds


def arena_score(quality: float, cost: float) -> float:
    """Return RouterArena's score of one setting with mean `cost` in USD per query.

        S = (1 + b) A C / (b A + C),  C = log2(200 / c) / log2(200 / 0.0044),  b = 0.1

    where A is accuracy and c is USD per 1000 queries. Source: Lu et al., RouterArena, arXiv 2510.00202, and
    its code (RouteWorks/RouterArena, llm_evaluation). Changed: mean quality stands for accuracy, and C is
    kept in [0, 1], since cheap queries cost less than the range that its authors saw.
    """
    placed = math.log2(_COST_MOST / max(1000.0 * cost, 1e-12)) / math.log2(_COST_MOST / _COST_LEAST)
    placed = min(1.0, max(0.0, placed))
    both = _BETA * quality + placed
    return (1.0 + _BETA) * quality * placed / both if both > 0 else 0.0


def best_arena_score(policy: Played) -> float:
    """Return the highest score among the policy's settings: chosen in hindsight, alike for all policies."""
    settings = zip(policy.quality.mean(axis=1), policy.cost.mean(axis=1), strict=True)
    return max((arena_score(float(quality), float(cost)) for quality, cost in settings), default=0.0)


def best_routing_accuracy(policy: Played, quality: FloatArray) -> float:
    """Return the share of queries that get an answer as good as any model's (n, m), at the best setting.

    Papers use the word for different things: agreement with one label of "the best model", or plainly the
    accuracy of the answers. Here every best model counts, since several are often equally right, and a query
    that nobody answers well is routed right whoever is asked.
    """
    best = quality.max(axis=1) - 1e-12
    return float((policy.quality >= best).mean(axis=1).max(initial=0.0))
