"""Documents as `modelfleet evaluate --json` writes them, small and made up."""

from __future__ import annotations

from collections.abc import Mapping

SHARES = [0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0]
NAMES = ("default", "hull", "task_mean", "ridge", "batch", "port", "oracle")


def figures(values: Mapping[str, float | None], width: float = 0.01) -> dict[str, object]:
    """Return each value and its interval, null where there is none."""
    entry: dict[str, object] = {}
    for name, value in values.items():
        entry[name] = value
        entry[f"{name}_ci"] = None if value is None else [value - width, value + width]
    return entry


def line(behind: float, width: float = 1.0) -> dict[str, object]:
    """Return a method that ours is ahead of by `behind` points."""
    return {
        "quality": 0.9 - behind / 100,
        "cost": 0.37,
        "unserved": 0.0,
        "behind": behind,
        "behind_ci": [behind - width, behind + width],
    }


def evaluation(
    *, name: str = "made-up", seed: int = 0, ahead: Mapping[str, float] | None = None
) -> dict[str, object]:
    """Return a document with all sections; ours is `ahead` of each policy by so many points, or 2."""
    points = dict.fromkeys(NAMES[1:], 2.0) | dict(ahead or {})
    policies = {
        policy: figures(
            {
                "k95": 0.1 + 0.01 * k,
                "k98": 0.3,
                "k100": None,
                "r25": 0.97,
                "r37": 0.98,
                "r50": 0.99,
                "r100": 1.0,
                "auc": None if policy in ("hull", "port", "batch", "oracle") else 0.8,
                "brier": None if policy in ("hull", "port", "batch", "oracle") else 0.15,
                "ece": None if policy in ("hull", "port", "batch", "oracle") else 0.02,
            }
        )
        for k, policy in enumerate(NAMES)
    }
    methods = {"ours": line(0.0, 0.0), "greedy in arrival order": line(5.0), "PORT": line(-3.0)}
    methods |= {"best constant model": line(60.0), "ours, no reserve price": line(4.0)}
    curve = {
        "cost_share": SHARES,
        "relative_quality": [0.0, 0.7, 0.85, 0.92, 0.96, 0.98, 1.0],
        "low": [None, 0.6, 0.8, 0.9, 0.94, 0.96, 0.98],
        "high": [None, 0.8, 0.9, 0.94, 0.98, 1.0, 1.02],
    }
    bins = {"predicted": [0.1, 0.5, 0.9], "observed": [0.15, 0.5, 0.88], "count": [10, 10, 10]}
    return {
        "schema": "modelfleet.evaluation/1",
        "command": f"modelfleet evaluate --data {name} --seed {seed}",
        "seed": seed,
        "resamples": 1000,
        "data": {
            "name": name,
            "licence": "CC0, made up",
            "queries": 100,
            "past": 60,
            "test": 40,
            "tasks": 2,
            "left_out": {"o1-mini": "hidden_reasoning_tokens"},
        },
        "versions": {"modelfleet": "0.1.0", "numpy": "2.2"},
        "models": ["small", "large <b>$x$ & co"],
        "best_single": {"model": "large <b>$x$ & co", "quality": 0.84, "cost_usd": 0.003},
        "policies": policies,
        "versus": {
            policy: figures(dict.fromkeys(("r25", "r37", "r50"), ahead / 100))
            for policy, ahead in points.items()
        },
        "literature": {
            "default": {
                "aiq": 0.79,
                "apgr": 0.86,
                "cpt50": None,
                "routerarena": 0.82,
                "routing_accuracy": 0.91,
            }
        },
        "constants": {
            "small": {"cost_share": 0.04, "relative_quality": 0.9},
            "large <b>$x$ & co": {"cost_share": 1.0, "relative_quality": 1.0},
            "giant": {"cost_share": 5.0, "relative_quality": 0.95},
        },
        "curves": dict.fromkeys(NAMES, curve),
        "reliability": {"default": bins, "ridge": bins},
        "capacity": {
            "share": 0.37,
            "batch": 100,
            "tightness": {"1.5": {"methods": methods}, "3": {"methods": methods}},
            "fewest_slots": {"1.5": {"methods": methods}},
        },
        "order": {
            "batch": 100,
            "orders": {
                "random": {
                    "methods": {
                        "ours": {"points": [[0.1, 0.9], [0.4, 0.99]], "k98": 0.32, "k98_ci": [0.3, 0.35]},
                        "PORT": {"points": [[0.1, 0.8], [0.4, 0.9]], "k98": None, "k98_ci": None},
                    }
                }
            },
        },
        "pressure": {
            "tightness": 1.5,
            "batch": 100,
            "budgets": {"0.1": {"methods": methods}, "0.37": {"methods": methods}},
        },
        "allocation": {
            "share": 0.37,
            "gpus": {"16": {"methods": {"ours": line(0.0), "popularity": line(12.0), "equal": line(-1.0)}}},
        },
        "loto": {
            "mean": -0.004,
            "worst": -0.02,
            "tasks": {
                "proof": {"queries": 50, "single": "small", "quality": 0.5, "single_quality": 0.48}
                | figures({"gain": 0.02}),
                "sum": {"queries": 50, "single": "small", "quality": 0.9, "single_quality": 0.92}
                | figures({"gain": -0.02}),
            },
        },
        "learning": {
            "requests": 1000,
            "feedback": 0.2,
            "exploration": 0.05,
            "stale": 0.6,
            "learned": 0.63,
            "offline": 0.65,
            "curve": {"requests": [500, 1000], "learned": [0.61, 0.63], "spread": [0.01, 0.01]},
            "seeds": [{"seed": 0}, {"seed": 1}],
        }
        | figures({"recovered": 0.6}, 0.1),
    }
