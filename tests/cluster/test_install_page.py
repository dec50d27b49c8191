"""Every command of the page on installing works as written, in this order, and shows what it promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelfleet_lab.cluster.access import Cluster
from support import cluster_product as product

pytestmark = pytest.mark.cluster

PAGE = (product.ROOT / "docs" / "install.md").read_text(encoding="utf-8")
NEXT = "=== next block ==="
REGISTRY = "registry.example.com/team"
IMAGES = ("operator", "injector", "sidecar", "model-server")
TIMEOUT = 300.0
ANSWER = re.compile(r"^(large|small) \w+ \d+\.\d+ d-\w+$", re.MULTILINE)


@pytest.fixture
def registry(cluster: Cluster) -> None:
    """Give the node the images under the names that the page pushes, as if it had pulled them."""
    for name in IMAGES:
        built = f"docker.io/{product.image(name)}"
        pushed = f"{REGISTRY}/{product.image(name)}"
        subprocess.run(
            ["ctr", "images", "tag", "--force", built, pushed],
            env=cluster.environment(),
            check=True,
            capture_output=True,
        )


@pytest.fixture
def leftovers(cluster: Cluster) -> Iterator[None]:
    """Take away what a failed run leaves; one that came to its end has left nothing."""
    yield
    for release, namespace in (("modelfleet", "modelfleet-system"), ("other", "other-system")):
        cluster.run("helm", "uninstall", release, f"--namespace={namespace}", "--ignore-not-found", "--wait")
    namespaces = ("trial", "modelfleet-system", "other-system")
    cluster.kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--timeout=120s")
    crds = ("modelfleets.modelfleet.io", "routingpolicies.modelfleet.io")
    cluster.kubectl("delete", "crd", *crds, "--ignore-not-found")


@pytest.mark.usefixtures("registry", "leftovers")
def test_the_page_does_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    images, *blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert images.startswith(f"make images REGISTRY={REGISTRY}/\n")  # Done: the node has them.
    for name in IMAGES:
        assert name in images
    assert images.rstrip().endswith(f"{product.image('$image')}; done")
    for name in ("charts", "examples"):
        (tmp_path / name).symlink_to(product.ROOT / name)
    script = tmp_path / "install.sh"
    script.write_text(f"\necho '{NEXT}'\n".join(blocks), encoding="utf-8")
    printed = run(cluster, script).split(NEXT)
    install, gpus, fleet, app, asked, watched, exhausted, restored, rolled, left, moved, narrow, away = (
        printed
    )

    assert install.count("Phase:          Succeeded") == 2
    assert "patched" in gpus
    assert len(re.findall(r"condition met$", fleet, re.MULTILINE)) == 2
    assert re.search(r"modelfleet\S*/chat +Active +3/4 ", fleet)
    assert ANSWER.search(app)
    for name in ("model: large", "tier: gold", "reason", "cost-usd", "decision-id"):
        assert f"x-modelfleet-{name}" in asked, asked  # with the explanation of the choice
    assert '"candidates"' in asked
    assert "modelfleet_sidecar_lease_live 1.0" in asked
    assert "Events:" in watched
    assert "Ready" in watched
    assert '"message": "fleet trial/chat planned"' in watched
    assert "429" in exhausted
    assert "of 0.00001 USD are spent" in exhausted
    assert ANSWER.search(restored)
    assert "Rollback was a success" in rolled
    assert {"deployment.apps/large", "modelfleet.modelfleet.io/chat"} <= set(left.split())
    assert ANSWER.search(moved)
    assert ANSWER.search(narrow)
    assert 'namespace "trial" deleted' in away
    kept = cluster.kubectl("get", "crd,clusterroles,mutatingwebhookconfigurations", "--output=name")
    assert [name for name in kept.split() if "modelfleet" in name] == []


def run(cluster: Cluster, script: Path) -> str:
    """Run the script to its end as a user of the cluster; return what it printed."""
    process = subprocess.Popen(
        ["bash", "-e", "-u", "-o", "pipefail", str(script)],
        cwd=script.parent,
        env=cluster.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = time.monotonic()
    try:
        printed, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        printed, errors = process.communicate(timeout=30)
        errors += f"\nnot done after {time.monotonic() - started:.0f} s"
    assert process.returncode == 0, f"{printed}\n{errors}"
    return printed
