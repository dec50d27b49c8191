"""Helm's hands: render, install and upgrade the chart as users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from modelfleet_lab.controlplane import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "modelfleet"
RELEASE = "modelfleet"
NAMESPACE = "modelfleet-system"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Helm:
    """The real Helm; without `kubeconfig` it knows no cluster."""

    program: Path
    folder: Path
    """Where it may write its caches."""
    kubeconfig: Path | None = None

    def run(
        self, *arguments: str, values: Mapping[str, object] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Helm with `values` as its values file; the caller looks at `returncode`."""
        given: list[str] = []
        if values is not None:
            file = self.folder / "values.json"
            file.write_text(json.dumps(values))
            given = [f"--values={file}"]
        homes = {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        # A kubeconfig that is no file keeps Helm from finding somebody's real cluster.
        cluster = {"KUBECONFIG": str(self.kubeconfig or self.folder / "none")}
        return subprocess.run(
            [str(self.program), *arguments, *given],
            env={**os.environ, **homes, **cluster},
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *arguments: str, values: Mapping[str, object] | None = None) -> str:
        """Run Helm; return its output. A failure fails the test with what Helm said."""
        done = self.run(*arguments, values=values)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def render(
        self,
        values: Mapping[str, object] | None = None,
        *,
        release: str = RELEASE,
        namespace: str = NAMESPACE,
    ) -> list[Manifest]:
        """Return every object of the chart with these values, hooks included."""
        text = self.must("template", release, str(CHART), f"--namespace={namespace}", values=values)
        return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]

    def refusal(self, values: Mapping[str, object]) -> str:
        """Render with values that must be refused; return what the user is told."""
        done = self.run("template", RELEASE, str(CHART), values=values)
        assert done.returncode != 0, "Helm took the values"
        return done.stderr


def helm(folder: Path, kubeconfig: Path | None = None) -> Helm:
    """Return Helm, built if there is none yet; it keeps its state below `folder`."""
    programs = binaries.find_or_build(
        lambda line: print(line, file=sys.__stderr__, flush=True), binaries.HELM
    )
    return Helm(programs["helm"], folder, kubeconfig)


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the one object of this kind and name."""
    found = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name} among {sorted(names(manifests))}"
    return found[0]


def names(manifests: list[Manifest]) -> set[str]:
    """Return kind/name of every object."""
    return {f"{manifest['kind']}/{manifest['metadata']['name']}" for manifest in manifests}


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the name and the template of every pod that the chart runs, also those of `helm test`."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest
        elif manifest["kind"] == "Deployment":
            yield manifest["metadata"]["name"], manifest["spec"]["template"]
