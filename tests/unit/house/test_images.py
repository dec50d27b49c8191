"""The images: what every Containerfile keeps to, and that an image has what its program imports, no less."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from modelfleet_core.assignment import solver
from modelfleet_lab.controlplane.images import PROGRAMS
from modelfleet_sidecar import batch

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;]+)", re.MULTILINE)
NOT_LOADED = {"sidecar": {"ortools"}}
"""What an image lacks though a module that its program could reach imports it; a test here says why."""

each_image = pytest.mark.parametrize("image", PROGRAMS)


def containerfile(image: str) -> str:
    return (ROOT / "images" / image / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def last_stage(image: str) -> list[str]:
    """Return the instructions of what users run."""
    text = containerfile(image)
    return text[text.rindex("\nFROM ") :].strip().splitlines()


def locked(path: Path) -> set[tuple[str, str]]:
    return set(PIN.findall(path.read_text(encoding="utf-8")))


@cache
def imports() -> grimp.ImportGraph:
    packages = (
        "modelfleet_core",
        "modelfleet_operator",
        "modelfleet_sidecar",
        "modelfleet_lab",
        "modelfleet",
    )
    return grimp.build_graph(*packages, include_external_packages=True)


@each_image
def test_the_base_can_be_chosen(image: str) -> None:
    text = containerfile(image)
    assert re.search(r"^ARG BASE=\S+/python:3\.\d+-slim\S*$", text, re.MULTILINE)
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(stages) == {"${BASE}", "dependencies"}
    assert last_stage(image)[0] == "FROM ${BASE}"


@each_image
def test_it_runs_the_program_as_nobody_and_without_a_shell(image: str) -> None:
    stage = last_stage(image)
    assert [line for line in stage if line.startswith("USER")] == ["USER 65532:65532"]
    assert stage[-1] == f'ENTRYPOINT ["/opt/modelfleet/bin/modelfleet-{image}"]'
    assert f"modelfleet-{image}" in PROJECT["scripts"]
    assert not [line for line in stage if line.startswith(("RUN", "CMD", "ADD"))]


@each_image
def test_it_says_what_it_is(image: str) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', containerfile(image)))
    assert labels["title"] == f"modelfleet-{image}"
    assert labels["version"] == PROJECT["version"]
    assert labels["licenses"] == PROJECT["license"]
    assert labels["description"]
    assert labels["source"] == "${SOURCE}"


@each_image
def test_nothing_is_installed_without_a_hash(image: str) -> None:
    runs = [line for line in containerfile(image).splitlines() if " pip install" in line or "/pip " in line]
    assert runs
    assert all("--require-hashes" in line or "--no-index" in line for line in runs)
    pins = (ROOT / "images" / image / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", pins.strip())
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


@each_image
def test_it_has_the_versions_that_are_tested(image: str) -> None:
    here = locked(ROOT / "images" / image / "requirements.lock")
    assert here
    assert here <= locked(ROOT / "requirements.lock")


@each_image
def test_it_has_what_its_program_imports(image: str) -> None:
    scripts: dict[str, str] = PROJECT["scripts"]
    start = scripts[f"modelfleet-{image}"].split(":")[0]
    graph = imports()
    reached = {module.split(".")[0] for module in graph.find_upstream_modules(start)}
    roots = re.findall(r"^COPY (core|operator|sidecar|lab|proto/gen) ", containerfile(image), re.MULTILINE)
    own = {path.name for root in roots for path in (ROOT / root).iterdir() if path.is_dir()}
    assert {name for name in reached if name.startswith("modelfleet")} <= own
    names = {name for name, _ in locked(ROOT / "images" / image / "requirements.lock")}
    distributions = packages_distributions()
    missing = {
        name
        for name in reached - NOT_LOADED.get(image, set())
        for found in [{dist.lower().replace("_", "-") for dist in distributions.get(name, ())}]
        if found and not name.startswith("modelfleet") and not found & names
    }
    assert missing == set()


def test_no_batch_of_a_sidecar_has_the_time_for_a_program() -> None:
    assert batch.SOLVE_SECONDS < solver.PROGRAM_SECONDS
