"""Measures what injection adds to the creation of a pod, and what the injector holds in memory.

    python benchmarks/injection.py --json out/injection.json

A review of a pod with five containers is decided by the function alone, and asked over HTTPS on loopback of
the server as it runs, by one client that keeps its connection, as an API server does, and by many at once.
Fleets and policies of many namespaces are known. Client and server share one process and one core, so the
figures over HTTPS are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import aiohttp
import trustme
from modelfleet_operator.injection.certificates import Certificates
from modelfleet_operator.injection.server import Server, Webhook
from modelfleet_operator.settings import Address
from support.injection import body, fleet_event, pod, policy_event, webhook, write_certificate

NAMESPACES, POLICIES = 200, 10
"""With one fleet each; with so many policies each."""


def _webhook() -> Webhook:
    events = []
    for number in range(NAMESPACES):
        namespace = f"team-{number}"
        events.append(fleet_event("chat", ("frontier", "token"), ("other", "token"), namespace=namespace))
        events += [
            policy_event(f"p{index}", "chat", namespace=namespace, app=f"app-{index}")
            for index in range(POLICIES)
        ]
    return webhook(*events)


def _body() -> bytes:
    containers = [
        {"name": f"c{number}", "image": "c", "env": [{"name": f"V{i}", "value": "x" * 40} for i in range(30)]}
        for number in range(5)
    ]
    given = pod(labels={"app": "app-3"}, containers=containers, initContainers=containers[:2])
    return body(given, namespace="team-7")


def _figures(seconds: Sequence[float], elapsed: float) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "per_second": len(ordered) / elapsed,
        "p50_ms": statistics.median(ordered) * 1e3,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1e3,
        "max_ms": ordered[-1] * 1e3,
    }


def alone(hook: Webhook, data: bytes, count: int) -> dict[str, float]:
    """Decide the review again and again in this thread."""
    seconds = []
    started = time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        hook.review(data)
        seconds.append(time.perf_counter() - before)
    return _figures(seconds, time.perf_counter() - started)


async def over_https(hook: Webhook, data: bytes, count: int, clients: int) -> dict[str, float]:
    """Ask a server on loopback; each client keeps a connection of its own."""
    with tempfile.TemporaryDirectory() as name:
        authority = trustme.CA()
        write_certificate(Path(name), authority)
        server = Server(hook)
        address = await server.start(Address("127.0.0.1", 0), Certificates(Path(name)).context)
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        seconds: list[float] = []

        async def ask(http: aiohttp.ClientSession, times: int) -> None:
            for _ in range(times):
                before = time.perf_counter()
                async with http.post(f"https://{address}/mutate", data=data, ssl=trust) as response:
                    await response.read()
                    if response.status != 200:
                        raise RuntimeError(f"a review was answered with {response.status}")
                seconds.append(time.perf_counter() - before)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as http:
            await asyncio.gather(*(ask(http, 3) for _ in range(clients)))  # connections are made
            seconds.clear()
            started = time.perf_counter()
            await asyncio.gather(*(ask(http, count // clients) for _ in range(clients)))
            elapsed = time.perf_counter() - started
        await server.stop()
    return _figures(seconds, elapsed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="reviews of each kind")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    hook, data = _webhook(), _body()
    figures: dict[str, object] = {
        "bytes": len(data),
        "alone": alone(hook, data, options.count),
        "https_1_client": asyncio.run(over_https(hook, data, options.count, 1)),
        "https_32_clients": asyncio.run(over_https(hook, data, options.count, 32)),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
