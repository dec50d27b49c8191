"""The examples fit together: what the fleet names exists, asks for its GPUs and fits the nodes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelfleet_core.catalog import ExternalPlacement, Fleet, PoolPlacement
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import read_fleet, read_policy, unknown_fields

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
Manifest = Mapping[str, Any]
SETS = {"examples": (EXAMPLES, EXAMPLES / "embedded"), "first-day": (EXAMPLES / "first-day",)}
"""The folders of manifests that are applied together."""


@pytest.fixture(params=SETS)
def folders(request: pytest.FixtureRequest) -> Sequence[Path]:
    found: Sequence[Path] = SETS[request.param]
    return found


def _objects(folders: Sequence[Path], *kinds: str) -> dict[tuple[str, str], Manifest]:
    found = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            if not kinds or manifest["kind"] in kinds:
                found[manifest["kind"], manifest["metadata"]["name"]] = manifest
    return found


@pytest.fixture
def fleet(folders: Sequence[Path]) -> Fleet:
    return _fleet(folders)


def _fleet(folders: Sequence[Path]) -> Fleet:
    (manifest,) = _objects(folders, "ModelFleet").values()
    root = Fields(_placed(manifest), "")
    parsed = read_fleet(root)
    assert unknown_fields(root) == ()
    return parsed


def _container(deployment: Manifest) -> Manifest:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def _placed(manifest: Manifest) -> Manifest:
    """Return the manifest as `kubectl apply` sends it: in a namespace."""
    return {**manifest, "metadata": {"namespace": "default", **manifest["metadata"]}}


def test_the_fleet_shows_models_on_pools_and_one_elsewhere() -> None:
    kinds = [type(variant.placement) for variant in _fleet(SETS["examples"]).variants()]
    assert kinds.count(PoolPlacement) in (2, 3)
    assert kinds.count(ExternalPlacement) == 1


def test_every_variant_has_a_deployment_and_a_service_that_match_it(
    folders: Sequence[Path], fleet: Fleet
) -> None:
    objects = _objects(folders)
    for variant in fleet.variants():
        placement = variant.placement
        if isinstance(placement, ExternalPlacement):
            continue
        deployment = objects["Deployment", placement.target.name]
        assert "replicas" not in deployment["spec"], "the operator owns the number"
        pod = deployment["spec"]["template"]
        container = _container(deployment)
        (pool,) = [pool for pool in fleet.pools if pool.name == placement.pool]
        assert container["image"] == f"modelfleet/model-server:{VERSION}"
        assert container["resources"]["limits"] == {pool.resource: placement.gpus}
        assert pod["spec"].get("nodeSelector", {}) == pool.node_selector
        served = container["args"][container["args"].index("--model") + 1]
        concurrency = container["args"][container["args"].index("--concurrency") + 1]
        model = fleet.model(variant.key.model)
        assert model is not None
        assert (served, int(concurrency)) == (model.served_name, variant.concurrency)
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        service = objects["Service", placement.service.name]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert placement.service.port in [port["name"] for port in service["spec"]["ports"]]


def test_the_policy_is_over_the_fleet_and_selects_the_application(
    folders: Sequence[Path], fleet: Fleet
) -> None:
    (manifest,) = _objects(folders, "RoutingPolicy").values()
    root = Fields(_placed(manifest), "")
    policy = read_policy(root)
    assert unknown_fields(root) == ()
    assert policy.fleet == fleet.key
    workloads = _objects(folders, "Pod", "Deployment").values()
    pods = [workload["spec"].get("template", workload)["metadata"]["labels"] for workload in workloads]
    (labels,) = [labels for labels in pods if labels.get("modelfleet.io/inject") == "true"]
    assert policy.pod_selector.selects(labels)


def test_the_embedded_nodes_offer_every_pool_its_limit() -> None:
    nodes = _objects(SETS["examples"], "Node").values()
    for pool in _fleet(SETS["examples"]).pools:
        offered = sum(
            int(node["status"]["allocatable"].get(pool.resource, 0))
            for node in nodes
            if pool.node_selector.items() <= node["metadata"]["labels"].items()
        )
        assert offered >= pool.limit


def test_objects_of_a_real_cluster_are_kept_apart_from_embedded_ones() -> None:
    applied = {path.name for path in EXAMPLES.glob("*.yaml")}
    assert applied == {"fleet.yaml", "models.yaml", "policy.yaml"}
