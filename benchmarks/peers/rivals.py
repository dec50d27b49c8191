"""Other gateways in front of the mock, each as its makers say: as a plain relay that spreads requests.

In: where to run, the installed programs. Out: a running `Target`. All four upstreams serve one model, which
LiteLLM and Portkey pick at random and the routers in turn; none of them estimates, assigns or counts money
against a limit.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from modelfleet_lab.ports import free_ports

from benchmarks.peers import installs
from benchmarks.peers.processes import SERVER_CORE, program
from benchmarks.peers.targets import Place, Target, answers, wait_until

START_SECONDS = 120.0


@contextlib.contextmanager
def litellm(place: Place) -> Iterator[Target]:
    """Run LiteLLM's proxy, one worker; with prices, since without them it looks for missing ones."""
    programs = installs.python_environment("litellm", place.cache, place.say)
    (port,), key = free_ports(1), f"sk-{secrets.token_hex(16)}"
    deployments = [
        {
            "model_name": "auto",
            "litellm_params": {
                "model": "openai/auto",
                "api_base": f"{url}/v1",
                "api_key": "none",
                "input_cost_per_token": 1e-6,
                "output_cost_per_token": 2e-6,
            },
        }
        for url in place.upstreams
    ]
    configuration = {
        "model_list": deployments,
        "litellm_settings": {"telemetry": False, "num_retries": 2, "request_timeout": 60},
        "router_settings": {"routing_strategy": "simple-shuffle", "num_retries": 2, "cooldown_time": 5},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    file = place.folder / "litellm.yaml"
    file.write_text(json.dumps(configuration), encoding="utf-8")
    command = [str(programs / "litellm"), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_MASTER_KEY": key,
        "NO_DOCS": "True",
        "DISABLE_ADMIN_UI": "True",
    }
    headers = (f"authorization: Bearer {key}",)
    with _started("litellm", [*command, "--telemetry", "False"], place, port, headers, environment) as target:
        yield target


@contextlib.contextmanager
def portkey(place: Place) -> Iterator[Target]:
    """Run Portkey's gateway; each request says how it is routed, as there is no file for it."""
    script = installs.portkey(place.cache, place.say)
    (port,) = free_ports(1)
    routing = {
        "strategy": {"mode": "loadbalance"},
        "retry": {"attempts": 2},
        "targets": [
            {"provider": "openai", "api_key": "none", "custom_host": f"{url}/v1"} for url in place.upstreams
        ],
    }
    command = ["node", str(script), f"--port={port}", "--headless"]
    headers = (f"x-portkey-config: {json.dumps(routing)}",)
    with _started("portkey", command, place, port, headers, {"NODE_ENV": "production"}) as target:
        yield target


@contextlib.contextmanager
def vllm_router(place: Place) -> Iterator[Target]:
    """Run vLLM's router (Rust)."""
    with _worker_router("vllm-router", ["--log-level", "warning"], place) as target:
        yield target


@contextlib.contextmanager
def sglang_router(place: Place) -> Iterator[Target]:
    """Run SGLang's router (Rust)."""
    with _worker_router("sglang-router", ["--log-level", "warn"], place, "launch") as target:
        yield target


@contextlib.contextmanager
def envoy(place: Place) -> Iterator[Target]:
    """Run Envoy with one worker thread: no gateway for models, but what a relay can cost at least."""
    programs = installs.python_environment("routers", place.cache, place.say)
    (port,) = free_ports(1)
    file = place.folder / "envoy.yaml"
    file.write_text(json.dumps(_envoy_configuration(port, place.upstreams)), encoding="utf-8")
    command = [str(programs / "envoy"), "-c", str(file), "--concurrency", "1", "-l", "error"]
    with _started("envoy", command, place, port) as target:
        yield target


def _worker_router(
    name: str, logging: Sequence[str], place: Place, *verb: str
) -> AbstractContextManager[Target]:
    programs = installs.python_environment("routers", place.cache, place.say)
    port, metrics = free_ports(2)
    command = [
        *(str(programs / name), *verb, "--host", "127.0.0.1", "--port", str(port)),
        *("--policy", "round_robin", *logging),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)),
        *("--worker-urls", *place.upstreams),
    ]
    return _started(name, command, place, port)


@contextlib.contextmanager
def _started(
    name: str,
    command: Sequence[str],
    place: Place,
    port: int,
    headers: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[Target]:
    began, url = time.monotonic(), f"http://127.0.0.1:{port}"
    with program(name, command, place.folder, core=SERVER_CORE, environment=environment) as running:
        wait_until(running, lambda: answers(url, headers), START_SECONDS)
        yield Target(running, url, time.monotonic() - began, headers=headers)


def _envoy_configuration(port: int, upstreams: Sequence[str]) -> dict[str, object]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": "models",
            "timeout": "60s",
            "retry_policy": {"retry_on": "reset,connect-failure,5xx", "num_retries": 2},
        },
    }
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoints = [{"endpoint": {"address": _address(urlsplit(url).port or 80)}} for url in upstreams]
    cluster = {
        "name": "models",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "models", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    listener = {"address": _address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
