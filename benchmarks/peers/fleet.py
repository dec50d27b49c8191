"""The fleet and policy that the sidecar is measured with, and the estimator it routes by.

In: the mock's addresses. Out: Kubernetes objects for an operator whose cluster is in memory. Four models of
different price and quality share a budget; routing, metrics, accounts and learning are as shipped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from modelfleet_core.estimation import artifact
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.training import Batch, fold_of, train
from modelfleet_core.values import ModelName, TaskName

from benchmarks.peers.prompts import prompts, tasks_of

NAMESPACE, POD, POD_UID = "bench", "app-0", "00000000-0000-4000-9000-000000000000"
MODELS = ("small", "medium", "large", "frontier")
PRICES = (("0.05", "0.10"), ("0.20", "0.40"), ("0.50", "1.00"), ("2.00", "6.00"))
"""USD for a million tokens, in and out."""
PRIORS = ("0.45", "0.58", "0.70", "0.82")
API = "modelfleet.io/v1alpha1"
TRAINING_TEXTS = 1_000
_Manifest = dict[str, object]


def manifests(upstreams: Sequence[str], *, slots: int, estimator: bytes | None) -> list[_Manifest]:
    """Return a fleet of one model at each upstream (base URL) with so many slots, its policy and the pod."""
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
        "podSelector": {"matchLabels": {"app": "bench"}},
        "limits": {"maxOutputTokens": 4096, "maxRequest": "2m"},
        "budget": {"limit": "100000", "period": "Day"},
        "tiers": [{"name": "standard", "weight": 1}],
    }
    found: list[_Manifest] = [
        _manifest("ModelFleet", "bench", {"pools": [], "models": models}),
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": POD,
                "namespace": NAMESPACE,
                "uid": POD_UID,
                "labels": {"app": "bench", "modelfleet.io/inject": "true"},
            },
            "spec": {"containers": [{"name": "app", "image": "app", "command": ["sleep", "86400"]}]},
        },
    ]
    if estimator is not None:
        policy["estimator"] = {"ref": {"name": "estimator"}}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "estimator", "namespace": NAMESPACE},
                "binaryData": {"estimator.npz": base64.b64encode(estimator).decode()},
            }
        )
    found.append(_manifest("RoutingPolicy", "bench", policy))
    return found


def write_manifests(path: Path, objects: Sequence[_Manifest]) -> Path:
    """Write objects as one stream of YAML (JSON is YAML)."""
    path.write_text("---\n".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return path


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


def _manifest(kind: str, name: str, spec: dict[str, object]) -> _Manifest:
    return {
        "apiVersion": API,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
