"""The operator with the account, the rights, the settings and the certificates that the chart gives it."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from modelfleet_lab.controlplane import namespace
from modelfleet_lab.controlplane.start import ControlPlane
from modelfleet_lab.ports import free_ports
from support.charts import CHART, helm, named
from support.clusters import node, policy
from support.fleet_on_nodes import host, managed_deployment, small_fleet
from support.programs import program
from support.rights import Right, granted, unused, used

pytestmark = pytest.mark.integration

PATIENCE = 60.0
NEEDS_PODS = {
    ("create", "tokenreviews"),  # a sidecar that asks for leases
    ("patch", "pods"),  # a ready pod that is to go first
    ("delete", "configmaps"),  # a ledger whose period is long over
    ("update", "configmaps"),  # a ledger that is spent from, or a second leader
    ("update", "endpointslices"),  # a second leader
    ("get", "modelfleets"),  # two writers of one object at once
    ("get", "routingpolicies"),
    ("get", "deployments"),
}
"""What a short life without pods does not come to; the cluster tier shows it."""


@pytest.mark.parametrize("own", [False, True], ids=["all namespaces", "one namespace"])
async def test_the_operator_needs_no_right_that_the_chart_does_not_grant(
    own: bool, bare_plane: ControlPlane, tmp_path: Path
) -> None:
    number = 1 + own
    release, models = f"fleets-{number}", f"test-{900 + number}"

    async def kubectl(*arguments: str, given: Any = None) -> str:
        text = json.dumps(given) if given else None
        done = await asyncio.to_thread(bare_plane.run_kubectl, *arguments, given=text)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    chart = helm(tmp_path, bare_plane.kubeconfig)
    values = {"watchNamespace": models if own else ""}
    within = f"--namespace={release}"
    for name in (release, models):
        await kubectl("create", "namespace", name)
    await asyncio.to_thread(
        chart.must, "install", release, str(CHART), within, "--take-ownership", values=values
    )
    manifests = chart.render(values, release=release, namespace=release)
    account = f"{release}-operator"
    try:
        await kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        await kubectl("create", "-f", "-", given=node(host(models), gpus=8))
        for manifest in (managed_deployment(models), small_fleet(models), policy(models)):
            await kubectl("apply", "-f", "-", given=manifest)

        secret = json.loads(await kubectl("get", f"secret/{release}-capacity-tls", within, "-o=json"))
        certificates = tmp_path / "certificates"
        certificates.mkdir()
        for file, data in secret["data"].items():
            (certificates / file).write_bytes(base64.b64decode(data))
        config = json.loads(bare_plane.kubeconfig.read_text())
        token = await kubectl("create", "token", account, within)
        config["users"][0]["user"] = {"token": token.strip()}
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        capacity, http = free_ports(2)
        container = named(manifests, "Deployment", account)["spec"]["template"]["spec"]["containers"][0]
        settings = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        settings |= {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "MODELFLEET_NAMESPACE": release,
            "MODELFLEET_POD_IP": namespace.ADDRESS,
            "MODELFLEET_CAPACITY_LISTEN": f"{namespace.ADDRESS}:{capacity}",
            "MODELFLEET_CAPACITY_TLS": str(certificates),
            "MODELFLEET_HTTP_LISTEN": f"127.0.0.1:{http}",
        }
        rights = granted(manifests, account)
        async with program("modelfleet-operator", tmp_path, settings, f"http://127.0.0.1:{http}") as running:
            left: list[Right] = []
            try:
                async with asyncio.timeout(PATIENCE):
                    await running.ready()
                    while True:
                        done, denied = used(bare_plane.audit_log, release, account)
                        left = [r for r in unused(rights, done) if (r.verb, r.resource) not in NEEDS_PODS]
                        if not left or denied:
                            break
                        await asyncio.sleep(0.2)  # the audit log tells nobody
            except TimeoutError:
                pytest.fail(f"not used: {left}; {running.log.read_text()[-3000:]}")
        assert denied == set()
        assert sorted(use for use in done if not any(right.covers(use) for right in rights)) == []
    finally:
        await asyncio.to_thread(chart.must, "uninstall", release, within, "--wait")
        await kubectl("delete", f"node/{host(models)}", "--ignore-not-found")
        await kubectl("delete", "crd", "--all")
        await kubectl("delete", "namespace", release, models, "--wait=false")
