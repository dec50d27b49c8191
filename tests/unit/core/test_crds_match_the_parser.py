"""The CRDs in `crds/` and the parser speak of the same fields, with the same defaults."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelfleet_core.catalog import Fleet
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import parse_fleet, parse_policy, read_fleet, read_policy
from modelfleet_core.policy import Policy
from support.manifests import (
    Manifest,
    fleet_manifest,
    full_fleet_manifest,
    full_policy_manifest,
    policy_manifest,
)

CRDS = Path(__file__).resolve().parents[3] / "crds"

Reader = Callable[[Fields], Fleet | Policy]
KINDS: list[Any] = [
    pytest.param("modelfleets", full_fleet_manifest, read_fleet, id="fleet"),
    pytest.param("routingpolicies", full_policy_manifest, read_policy, id="policy"),
]


def _definition(plural: str) -> Manifest:
    loaded: Manifest = yaml.safe_load((CRDS / f"{plural}.yaml").read_text(encoding="utf-8"))
    return loaded


def _schema(plural: str, part: str) -> Manifest:
    version = _definition(plural)["spec"]["versions"][0]
    found: Manifest = version["schema"]["openAPIV3Schema"]["properties"][part]
    return found


def _fields(schema: Manifest, path: str) -> dict[str, Manifest]:
    """Return every field below `schema` by its path; entries of maps are no fields of their own."""
    found: dict[str, Manifest] = {}
    for name, child in schema.get("properties", {}).items():
        found |= {f"{path}.{name}": child} | _fields(child, f"{path}.{name}")
    if "items" in schema:
        found |= _fields(schema["items"], f"{path}[]")
    return found


def _with_defaults(value: Any, schema: Manifest) -> Any:
    """Return `value` as the API server stores it: with the schema's defaults."""
    if isinstance(value, list):
        return [_with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in filled and "default" in child:
            filled[name] = copy.deepcopy(child["default"])
        if name in filled:
            filled[name] = _with_defaults(filled[name], child)
    return filled


@pytest.mark.parametrize(("plural", "build", "read"), KINDS)
def test_every_field_of_the_crd_is_read_and_every_field_read_is_in_the_crd(
    plural: str, build: Callable[[], Manifest], read: Reader
) -> None:
    root = Fields(build(), "")
    read(root)
    read_paths = {path for path in root.asked() if path.startswith("spec.")}
    assert read_paths == set(_fields(_schema(plural, "spec"), "spec"))


@pytest.mark.parametrize(("plural", "build", "read"), KINDS)
def test_every_field_of_the_crd_is_described(
    plural: str, build: Callable[[], Manifest], read: Reader
) -> None:
    fields = _fields(_schema(plural, "spec"), "spec")
    assert [path for path, schema in fields.items() if not schema.get("description", "").endswith(".")] == []


@pytest.mark.parametrize(("plural", "build", "read"), KINDS)
def test_texts_lists_and_maps_of_the_crd_are_bounded(
    plural: str, build: Callable[[], Manifest], read: Reader
) -> None:
    unbounded = [
        path
        for path, schema in _fields(_schema(plural, "spec"), "spec").items()
        if (schema.get("type") == "string" and not ("maxLength" in schema or "enum" in schema))
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert unbounded == []


def test_the_defaults_of_a_fleet_are_the_parsers() -> None:
    manifest = fleet_manifest()
    spec = manifest["spec"]
    del spec["scaling"], spec["pools"][0]["resource"], spec["models"][1]["quality"]
    variant = spec["models"][0]["variants"][0]
    del variant["latency"], variant["scaleTargetRef"]["apiVersion"], variant["scaleTargetRef"]["kind"]
    del variant["service"]["scheme"], variant["replicas"]["min"]
    stored = manifest | {"spec": _with_defaults(spec, _schema("modelfleets", "spec"))}
    assert stored != manifest
    assert parse_fleet(stored) == parse_fleet(manifest)


def test_the_defaults_of_a_policy_are_the_parsers() -> None:
    manifest = policy_manifest()
    manifest["spec"] = {"fleetRef": {"name": "chat"}, "budget": {"limit": 1}, "tiers": [{"name": "only"}]}
    manifest["spec"]["quotas"] = [{"models": ["frontier"], "requests": 1}]
    stored = manifest | {"spec": _with_defaults(manifest["spec"], _schema("routingpolicies", "spec"))}
    assert stored != manifest
    assert parse_policy(stored) == parse_policy(manifest)


@pytest.mark.parametrize("plural", ["modelfleets", "routingpolicies"])
def test_status_is_a_subresource_and_is_shown_in_columns(plural: str) -> None:
    version = _definition(plural)["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    known = _fields(_schema(plural, "spec"), ".spec") | _fields(_schema(plural, "status"), ".status")
    columns = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    plain = [path for path in columns if "[" not in path and not path.startswith(".metadata")]
    assert plain
    assert [path for path in plain if path not in known] == []
