"""Manifests of a sidecar without an operator, and the sidecar that goes by them, in the test's own loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import yaml
from modelfleet_core.catalog import Pricing
from modelfleet_core.leasing.ledger import LedgerRecord, record_from
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.server import ModelServer, ServerSettings
from modelfleet_sidecar.app import Sidecar, assemble

from support.sidecars import FAST, settings_for

Manifest = dict[str, object]


def fleet(
    urls: Mapping[str, str], *, in_flight: int = 4, key: Mapping[str, str] | None = None, **limits: int
) -> Manifest:
    """Return a fleet with an external model for each URL, 1 USD per million tokens."""
    return {
        "apiVersion": "modelfleet.io/v1alpha1",
        "kind": "ModelFleet",
        "metadata": {"name": "laptop"},
        "spec": {
            "models": [
                {
                    "name": name,
                    "pricing": {"inputPerMTok": "1", "outputPerMTok": "1"},
                    "variants": [
                        {
                            "name": "api",
                            "external": {"url": url, **({"apiKeySecretRef": dict(key)} if key else {})},
                            "limits": {"inFlight": in_flight, **limits},
                        }
                    ],
                }
                for name, url in urls.items()
            ]
        },
    }


def policy(**spec: object) -> Manifest:
    """Return a policy over that fleet."""
    return {
        "apiVersion": "modelfleet.io/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"name": "laptop"},
        "spec": {"fleetRef": {"name": "laptop"}, "tiers": [{"name": "standard", "weight": 1}], **spec},
    }


def write(path: Path, *manifests: Manifest) -> None:
    """Put `manifests` in place of a file in one step, as editors and mounted ConfigMaps do."""
    draft = path.with_suffix(".new")
    draft.write_text(yaml.safe_dump_all(manifests))
    draft.rename(path)


def ledger(state: Path) -> LedgerRecord:
    """Return the one ledger in a folder of state."""
    (path,) = state.glob("ledger-*.json")
    return record_from(json.loads(path.read_text()), "")


@asynccontextmanager
async def model_servers(
    names: Sequence[str],
    *,
    slots: int = 4,
    latency: LatencyProfile = FAST,
    api_key: str | None = None,
) -> AsyncIterator[dict[str, ModelServer]]:
    """Run a simulated model server for each name."""
    servers = {}
    try:
        for name in names:
            pricing = Pricing(10**9, 10**9)
            server = ModelServer(
                ServerSettings(
                    model=name,
                    concurrency=slots,
                    latency=latency,
                    name=name,
                    pricing=pricing,
                    api_key=api_key,
                )
            )
            await server.start()
            await server.until(lambda server: server.ready)
            servers[name] = server
        yield servers
    finally:
        for server in servers.values():
            await server.stop()


@asynccontextmanager
async def standalone(config: Path, state: Path | None, *, keys: Path | None = None) -> AsyncIterator[Sidecar]:
    """Run a sidecar by a file until the block ends."""
    settings = replace(
        settings_for(keys=keys), config=config, state=state, namespace="standalone", pod_uid="standalone"
    )
    sidecar = assemble(settings)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.drain()
