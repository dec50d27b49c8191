"""Builders of manifests as JSON gives them; every call returns a fresh one that tests may change."""

from __future__ import annotations

import copy
from typing import Any

Manifest = dict[str, Any]

FLEET: Manifest = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "ModelFleet",
    "metadata": {"name": "chat", "namespace": "ml", "uid": "fleet-uid", "generation": 1},
    "spec": {
        "pools": [
            {
                "name": "h100",
                "resource": "nvidia.com/gpu",
                "nodeSelector": {"gpu": "h100"},
                "limit": 8,
                "hourlyCost": "2.90",
            }
        ],
        "models": [
            {
                "name": "large",
                "servedName": "org/large",
                "quality": {"prior": "0.74", "byTask": {"math": "0.61"}},
                "contextTokens": 131072,
                "pricing": {"inputPerMTok": "0.40", "outputPerMTok": "0.60"},
                "variants": [
                    {
                        "name": "h100",
                        "pool": "h100",
                        "gpus": 2,
                        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "large"},
                        "service": {"name": "large", "port": "http", "scheme": "http"},
                        "concurrency": 8,
                        "latency": {"timeToFirstToken": "250ms", "perOutputToken": "18ms"},
                        "replicas": {"min": 0, "max": 4},
                        "startup": "4m",
                    }
                ],
            },
            {
                "name": "frontier",
                "quality": {"prior": "0.9"},
                "pricing": {"inputPerMTok": "2.50", "outputPerMTok": "10"},
                "variants": [
                    {
                        "name": "api",
                        "external": {"url": "https://api.example.com/v1"},
                        "concurrency": 16,
                        "latency": {"timeToFirstToken": "400ms", "perOutputToken": "10ms"},
                    }
                ],
            },
        ],
        "budget": {"hourly": "60"},
        "scaling": {"interval": "15s", "scaleDownStabilization": "5m", "solveTimeout": "5s"},
    },
}

POLICY: Manifest = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "RoutingPolicy",
    "metadata": {"name": "assistant", "namespace": "ml", "uid": "policy-uid", "generation": 1},
    "spec": {
        "fleetRef": {"name": "chat"},
        "podSelector": {"matchLabels": {"app": "assistant"}},
        "batching": {"maxSize": 32, "maxWait": "15ms"},
        "budget": {"limit": "60", "period": "Hour", "enforcement": "Hard"},
        "limits": {"maxOutputTokens": 1024, "maxRequest": "2m", "maxBody": "1Mi"},
        "tiers": [
            {"name": "gold", "weight": 4, "match": {"header": {"X-Tier": "gold"}}},
            {"name": "bronze", "weight": "0.5"},
        ],
        "shedPenalty": "0.25",
    },
}


def full_fleet_manifest() -> Manifest:
    """Return a fleet that sets every field."""
    manifest = fleet_manifest()
    manifest["spec"]["models"][1]["pricing"]["cachedInputPerMTok"] = "1.25"
    manifest["spec"]["models"][1] |= {
        "capabilities": ["chat", "tools", "vision"],
        "imageTokens": 1600,
        "templateTokens": 900,
        "request": {
            "systemPrompt": "Answer in plain words.",
            "rename": {"max_tokens": "max_completion_tokens", "top_k": "topK"},
            "remove": ["logit_bias", "user"],
            "defaults": {"temperature": 0.6, "chat_template_kwargs": {"thinking": False}},
        },
    }
    external = manifest["spec"]["models"][1]["variants"][0]
    del external["concurrency"]
    external["limits"] = {"inFlight": 16, "requestsPerMinute": 500, "tokensPerMinute": 200_000}
    external["external"]["apiKeySecretRef"] = {"name": "frontier", "key": "token"}
    return manifest


def full_policy_manifest() -> Manifest:
    """Return a policy that sets every field."""
    manifest = policy_manifest()
    spec = manifest["spec"]
    spec["budget"]["shares"] = [{"models": ["frontier"], "max": "15%"}]
    spec["quotas"] = [{"models": ["frontier"], "requests": 100, "period": "Day"}]
    spec["tenants"] = {
        "header": "X-Tenant",
        "fairShare": True,
        "declared": [{"name": "acme", "max": "20%"}],
    }
    spec["models"] = {"allow": ["large", "frontier"], "deny": ["small"]}
    spec["aliases"] = {"gpt-4o": "auto", "cheap": "large"}
    spec["staleness"] = {"maxAge": "40s", "then": "Floor"}
    spec["tiers"][0] |= {
        "floor": 2,
        "minimumQuality": "0.8",
        "latency": {"timeToFirstToken": "800ms", "total": "10s"},
        "onOverload": "Shed",
        "models": {"allow": ["large"], "deny": ["frontier"]},
    }
    spec["fallback"] = {
        "maxAttempts": 2,
        "retryOn": ["Connect", "RateLimited"],
        "timeouts": {
            "connect": "500ms",
            "firstToken": "20s",
            "betweenTokens": "5s",
            "minTokensPerSecond": "1.5",
            "total": "2m",
        },
        "breaker": {"failures": 3, "openFor": "10s"},
    }
    spec["defaultModel"] = "large"
    spec["groups"] = {"header": "X-Team", "values": ["north", "south"]}
    spec["rules"] = [
        {
            "name": "code",
            "match": {
                "anyKeyword": ["def", "class"],
                "allKeywords": ["python"],
                "regex": "(?m)^(def|class) ",
                "minTokens": 20,
                "maxTokens": 4000,
            },
            "task": "code",
            "params": {"temperature": 0, "max_tokens": 512},
        },
        {
            "name": "chinese",
            "match": {"script": "Han", "header": {"X-Domain": "legal"}},
            "prefer": {"models": ["large"], "bonus": "0.05"},
            "models": {"allow": ["large", "frontier"], "deny": ["frontier"]},
        },
    ]
    spec["estimator"] = {"ref": {"name": "chat-estimator"}, "minConfidence": "0.2", "kappa": "0.5"}
    spec["learning"] = {"enabled": True, "exploration": "2%", "halfLife": "24h"}
    spec["judge"] = {"model": "frontier", "share": "2%", "budget": {"limit": "5", "period": "Week"}}
    return manifest


def fleet_manifest(name: str = "chat", namespace: str = "ml") -> Manifest:
    manifest = copy.deepcopy(FLEET)
    manifest["metadata"] |= {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    return manifest


def policy_manifest(name: str = "assistant", namespace: str = "ml") -> Manifest:
    manifest = copy.deepcopy(POLICY)
    manifest["metadata"] |= {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    return manifest
