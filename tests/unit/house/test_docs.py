"""The pages name what there is: every field of a policy, every command, every package of the core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelfleet_core.allocation.result import Reason, Termination
from modelfleet_lab.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = sorted(path.parent.name for path in (ROOT / "core" / "modelfleet_core").glob("*/__init__.py"))


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    for name, found in schema.get("properties", {}).items():
        yield name
        yield from _fields(found)
    if isinstance(schema.get("items"), dict):
        yield from _fields(schema["items"])


def test_every_field_of_a_policy_is_documented() -> None:
    crd = yaml.safe_load((ROOT / "crds" / "routingpolicies.yaml").read_text(encoding="utf-8"))
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    fields = set(_fields(spec))
    assert {"staleness", "shares", "floor"} <= fields
    assert sorted(name for name in fields if name not in page) == []


def test_every_reason_of_a_plan_is_documented() -> None:
    page = (ROOT / "docs" / "observe.md").read_text(encoding="utf-8")
    words = [reason.value for reason in Reason] + [end.value for end in Termination]
    assert sorted(word for word in words if f"`{word}`" not in page) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__.split(".")[-2])
def test_every_command_is_in_the_readme(command: Any) -> None:
    assert f"`modelfleet {command.__name__.split('.')[-2]}`" in README


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_of_the_core_is_on_the_map(package: str) -> None:
    assert f"(core/modelfleet_core/{package})" in README


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_page_can_be_reached_from_the_readme(page: str) -> None:
    assert f"(docs/{page})" in README
