"""How a running sidecar reaches model servers: through a proxy, and pods by their Service's name."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme
from modelfleet_core.catalog import PoolPlacement, Replicas, ScaleTarget, ServicePort
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import EndpointUrl, PoolName
from modelfleet_sidecar.app import Sidecar
from modelfleet_sidecar.settings import Settings
from support import standalone as alone
from support.access import pem, write_pair
from support.scripted import Act, scripted_server
from support.sidecars import TRIED_ONCE, GivenLease, Spec, fleet_of, policy_of, settings_for

pytestmark = pytest.mark.integration

BODY = {"model": "auto", "messages": [{"role": "user", "content": "How are you?"}]}


async def ask(sidecar: Sidecar) -> tuple[int, str]:
    """Return the status and the body."""
    url = f"http://{sidecar.http_address}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=BODY) as answer:
        return answer.status, await answer.text()


async def test_a_model_elsewhere_is_asked_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_server(lambda: Act.ANSWER) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        config = tmp_path / "fleet.yaml"
        alone.write(config, alone.fleet({"far": "http://models.example.test/v1"}), alone.policy())
        async with alone.standalone(config, None) as sidecar:
            status, said = await ask(sidecar)
        assert status == 200, said
        (head,) = proxy.heads
    assert head.startswith("POST http://models.example.test/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("certified", "status"), [("gpu.ml.svc", 200), ("other.ml.svc", 503), ("127.0.0.1", 503)]
)
async def test_the_certificate_of_a_pod_must_be_for_its_service(certified: str, status: int) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(context)
    found, said, _ = await through(context, replace(settings_for(), upstream_ca=pem(authority)))
    assert found == status, said


@pytest.mark.parametrize(("shown", "status"), [(True, 200), (False, 503)])
async def test_a_pod_that_asks_for_a_certificate_gets_that_of_the_settings(
    tmp_path: Path, shown: bool, status: int
) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("gpu.ml.svc").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    clients.configure_trust(context)
    pair = write_pair(tmp_path / "client", clients, "sidecar") if shown else None
    settings = replace(settings_for(), upstream_ca=pem(authority), upstream_tls=pair)
    found, said, asked = await through(context, settings)
    assert found == status, said
    assert asked == int(shown)


async def through(context: ssl.SSLContext, settings: Settings) -> tuple[int, str, int]:
    """Ask a pod that serves TLS; return the status, the body, and how many requests the pod saw."""
    async with scripted_server(lambda: Act.ANSWER, tls=context) as pod:
        lease, spec = pooled()
        endpoint = EndpointUrl(pod.url.replace("localhost", "127.0.0.1"))
        lease.grant({endpoint: SlotGrant(spec.key, spec.slots)})
        sidecar = Sidecar(settings=settings, lease=lease)
        await sidecar.start()
        try:
            found, said = await ask(sidecar)
        finally:
            await sidecar.drain()
        return found, said, len(pod.heads)


def pooled() -> tuple[GivenLease, Spec]:
    """Return a lease over a model that runs behind the Service `gpu` of the namespace `ml`."""
    lease, spec = GivenLease(), Spec("large")
    placement = PoolPlacement(
        pool=PoolName("h100"),
        gpus=1,
        target=ScaleTarget("Deployment", "large"),
        service=ServicePort("gpu", "https", "https"),
        replicas=Replicas(1, 1),
        startup=60.0,
    )
    fleet = fleet_of([spec])
    (model,) = fleet.models
    (variant,) = model.variants
    variants = (replace(variant, placement=placement),)
    lease.fleet = replace(fleet, models=(replace(model, variants=variants),))
    lease.policy = policy_of(fallback=TRIED_ONCE)
    return lease, spec
