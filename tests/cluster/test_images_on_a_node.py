"""Each image starts its program where it may do nothing: no user, a read-only root, no capability."""

from __future__ import annotations

import pytest
from modelfleet_lab.cluster.access import Cluster
from modelfleet_lab.controlplane.images import PROGRAMS
from support import cluster_node as pods
from support.cluster_product import image

pytestmark = pytest.mark.cluster

IMPORT_ALL = """
import importlib, pkgutil, sys
for root in map(importlib.import_module, sys.argv[1:]):
    for found in pkgutil.walk_packages(root.__path__, root.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
            print(found.name)
try:
    open("/written", "w")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_starts_without_any_right(cluster: Cluster, namespace: str, name: str) -> None:
    container = {
        "name": "program",
        "image": image(name),
        "imagePullPolicy": "Never",
        "args": ["--help"],
        "securityContext": pods.RESTRICTED,
    }
    cluster.apply(pods.job("help", containers=[container]), namespace=namespace)
    cluster.kubectl(
        "wait", "--for=condition=Complete", "job/help", f"--namespace={namespace}", "--timeout=60s"
    )
    assert f"modelfleet-{name}" in cluster.kubectl("logs", "job/help", f"--namespace={namespace}")


@pytest.mark.parametrize(
    ("name", "roots"),
    [
        ("operator", ["modelfleet_core", "modelfleet_operator"]),
        ("sidecar", ["modelfleet_sidecar"]),  # of the core it loads what assigns, not what allocates
    ],
)
def test_an_image_has_what_its_modules_import(
    cluster: Cluster, namespace: str, name: str, roots: list[str]
) -> None:
    container = {
        "name": "import",
        "image": image(name),
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", IMPORT_ALL, *roots],
        "securityContext": pods.RESTRICTED,
    }
    cluster.apply(pods.job("import", containers=[container]), namespace=namespace)
    cluster.kubectl(
        "wait", "--for=condition=Complete", "job/import", f"--namespace={namespace}", "--timeout=60s"
    )
    told = cluster.kubectl("logs", "job/import", f"--namespace={namespace}").splitlines()
    assert told[-1] == "[Errno 30] Read-only file system: '/written'"
    assert len(told) > 20
