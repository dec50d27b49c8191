"""The fleet and policy that the sidecar is measured with, and the estimator it routes by.

In: the mock's addresses. Out: the file of a sidecar without a cluster, with the estimator beside it. Four
models of different price and quality share a budget; routing, metrics, accounts and learning are as shipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from modelfleet_core.estimation import artifact
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.training import Batch, fold_of, train
from modelfleet_core.values import ModelName, TaskName

from benchmarks.peers.prompts import prompts, tasks_of

MODELS = ("small", "medium", "large", "frontier")
PRICES = (("0.05", "0.10"), ("0.20", "0.40"), ("0.50", "1.00"), ("2.00", "6.00"))
"""USD for a million tokens, in and out."""
PRIORS = ("0.45", "0.58", "0.70", "0.82")
API = "modelfleet.io/v1alpha1"
ESTIMATOR = "estimator"
TRAINING_TEXTS = 1_000


def write_config(folder: Path, upstreams: Sequence[str], *, slots: int, estimator: bytes | None) -> Path:
    """Write a fleet of one model at each upstream (base URL) with so many slots, and its policy.

    `estimator`: the trained one that it routes by; None: the manifest's priors.
    """
    models = [
        {
            "name": name,
            "servedName": "auto",
            "quality": {"prior": prior},
            "contextTokens": 131072,
            "pricing": {"inputPerMTok": price_in, "outputPerMTok": price_out},
            "variants": [
                {
                    "name": "api",
                    "external": {"url": f"{url}/v1"},
                    "concurrency": slots,
                    "latency": {"timeToFirstToken": "50ms", "perOutputToken": "2ms"},
                }
            ],
        }
        for name, prior, (price_in, price_out), url in zip(MODELS, PRIORS, PRICES, upstreams, strict=True)
    ]
    policy: dict[str, object] = {
        "fleetRef": {"name": "bench"},
        "limits": {"maxOutputTokens": 4096, "maxRequest": "2m"},
        "budget": {"limit": "100000", "period": "Day"},
        "tiers": [{"name": "standard", "weight": 1}],
    }
    if estimator is not None:
        policy["estimator"] = {"ref": {"name": ESTIMATOR}}
        (folder / f"{ESTIMATOR}.npz").write_bytes(estimator)
    kinds = (("ModelFleet", {"models": models}), ("RoutingPolicy", policy))
    file = folder / "fleet.yaml"  # JSON is YAML
    file.write_text("---\n".join(_manifest(kind, spec) for kind, spec in kinds), encoding="utf-8")
    return file


def trained_estimator(seed: int = 7) -> bytes:
    """Return an estimator of the four models, trained on made-up outcomes of texts as the load's are."""
    texts = prompts(TRAINING_TEXTS, seed)
    kinds = np.array(tasks_of(texts))
    rng = np.random.default_rng(seed)
    strength = np.array([float(prior) for prior in PRIORS]) + rng.normal(0.0, 0.12, (kinds.max() + 1, 4))
    right = np.clip(strength[kinds], 0.02, 0.98)
    quality = (rng.random(right.shape) < right).astype(np.float64)
    tokens = rng.uniform(60.0, 140.0, right.shape)
    batch = Batch(
        feature_matrix(texts),
        tuple(TaskName(f"kind-{kind}") for kind in kinds.tolist()),
        quality,
        tokens,
        np.array([fold_of(text) for text in texts]),
    )
    return artifact.encode(train(tuple(ModelName(name) for name in MODELS), lambda: [batch]))


def _manifest(kind: str, spec: object) -> str:
    return json.dumps({"apiVersion": API, "kind": kind, "metadata": {"name": "bench"}, "spec": spec}) + "\n"
