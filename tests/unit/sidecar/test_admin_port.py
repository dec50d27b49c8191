"""The admin port's three paths: what a kubelet and a Prometheus get to read."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from modelfleet_sidecar.admin import AdminApp
from modelfleet_sidecar.telemetry import Telemetry


def get(
    path: str, *, ready: bool = True, trouble: str = "", telemetry: Telemetry | None = None
) -> tuple[int, str]:
    app = AdminApp(registry=(telemetry or Telemetry()).registry, ready=lambda: ready, trouble=lambda: trouble)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the admin port reads no body")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path}, receive, send))
    start, body = sent
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    return start["status"], body["body"].decode()


def test_a_draining_sidecar_is_alive_but_not_ready() -> None:
    assert get("/healthz", ready=False) == (200, "ok\n")
    assert get("/readyz", ready=False) == (503, "draining\n")


@pytest.mark.parametrize(
    ("trouble", "said"), [("", "ok\n"), ("no route", "ok, but without the operator: no route\n")]
)
def test_a_sidecar_is_ready_without_its_operator_and_says_so(trouble: str, said: str) -> None:
    assert get("/readyz", trouble=trouble) == (200, said)


def test_metrics_show_what_was_counted() -> None:
    telemetry = Telemetry()
    telemetry.request("small", "gold", "Ok", 0.2)

    status, text = get("/metrics", telemetry=telemetry)

    assert status == 200
    assert 'modelfleet_sidecar_requests_total{model="small",outcome="Ok",tier="gold"} 1.0' in text


def test_any_other_path_is_refused_by_naming_those_that_are_there() -> None:
    assert get("/v1/models") == (404, "only /healthz, /readyz and /metrics are here\n")
