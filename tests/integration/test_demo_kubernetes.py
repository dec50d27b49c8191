"""The first act of the demo on Kubernetes: the examples from kubectl to a streamed answer, and away again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ACT = """
import asyncio, sys
from pathlib import Path
from rich.console import Console
from modelfleet_lab.demo.examples import show_examples
from modelfleet_lab.demo.kubectl import Kubectl
from modelfleet_lab.demo.kubernetes import control_plane
folder, console = Path(sys.argv[1]), Console(width=120)
with control_plane(folder / "plane", console) as plane:
    asyncio.run(show_examples(Kubectl(plane, console), folder / "examples"))
"""


def test_the_examples_go_from_kubectl_to_a_streamed_answer(tmp_path: Path) -> None:
    # A process of its own, since it needs a network and nodes of its own.
    done = subprocess.run(
        [sys.executable, "-c", ACT, str(tmp_path)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    steps = [
        "$ kubectl apply -f crds\n",
        "$ kubectl apply -f examples\n",
        "modelfleet.modelfleet.io/chat created",
        "$ modelfleet-model-server",
        "modelfleet.modelfleet.io/chat condition met",
        "$ kubectl get modelfleets,routingpolicies,deployments\n",
        " chunks: ",
        "  x-modelfleet-decision-id: ",
        "$ kubectl get modelfleets,routingpolicies,deployments\n",
        '"chat" deleted',
        "$ kubectl get deployments,pods ",
        'deployment.apps "small" deleted',
        'node "node-h100" deleted',
    ]
    place = 0
    for step in steps:
        place = told.find(step, place)
        assert place >= 0, f"{step!r} is missing or out of order in:\n{told}"
    after = told[told.index("$ kubectl get deployments,pods ") :]
    assert len(re.findall(r"^deployment.apps/\w+ +[1-9]/", after, re.MULTILINE)) == 3, after
