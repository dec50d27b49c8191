"""Measures what injection adds to the creation of a pod, and what the injector holds in memory.

    python benchmarks/injection.py --json out/injection.json
    make cluster COMMAND=".venv/bin/python benchmarks/injection.py --cluster --json out/on-a-node.json"

A review of a pod with five containers is decided by the function alone, and asked over HTTPS on loopback of
the server as it runs, by one client that keeps its connection, as an API server does, and by many at once.
Fleets and policies of many namespaces are known. Client and server share one process and one core, so the
figures over HTTPS are upper bounds.

With `--cluster` the release is installed in the cluster that this runs in, and the creation of pods is
rehearsed with and without the label, by one client and by eight at once. Told are the seconds that clients
see, and what the API server counts of each call of the webhook in its own histogram; it may call twice for
one pod.
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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import aiohttp
import trustme
from modelfleet_lab.cluster.access import Cluster
from modelfleet_operator.injection.certificates import Certificates
from modelfleet_operator.injection.server import Server, Webhook
from modelfleet_operator.settings import Address
from support import cluster_injection
from support.cluster_api import Api
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


def rehearsed(cluster: Cluster, count: int, clients: int) -> dict[str, object]:
    """Rehearse the creation of `count` pods with the label and as many without, by turns."""
    before = cluster_injection.histogram(cluster)

    def create(_: int) -> dict[bool, list[float]]:
        taken: dict[bool, list[float]] = {True: [], False: []}
        with Api(cluster) as api:
            for number in range(2 * count // clients + 4):
                given = cluster_injection.application("new")
                labelled = number % 2 == 0
                if not labelled:
                    given["metadata"]["labels"] = {}
                stored, seconds = api.rehearse_pod(cluster_injection.ASKING, given)
                if bool(stored["spec"].get("initContainers")) != labelled:
                    raise RuntimeError("a sidecar is missing, or where it was not asked for")
                if number >= 4:  # by then the connections are made
                    taken[labelled].append(seconds)
        return taken

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(create, range(clients)))
    elapsed = time.perf_counter() - started
    seen = {
        name: _figures([each for part in found for each in part[labelled]], elapsed)
        for name, labelled in (("with", True), ("without", False))
    }
    added = {key: seen["with"][key] - seen["without"][key] for key in ("p50_ms", "p99_ms")}
    after = cluster_injection.histogram(cluster)
    return {
        "clients_see": {**seen, "added": added},
        "webhook": _told({bound: value - before.get(bound, 0.0) for bound, value in after.items()}),
    }


def _told(counts: Mapping[str, float]) -> dict[str, object]:
    """Return calls, mean, and the bounds between which quantiles lie: the API server's buckets are coarse."""
    bounds = [bound for bound in counts if bound not in ("sum", "count")]
    calls = counts["count"]
    told: dict[str, object] = {"calls": calls, "mean_ms": counts["sum"] / calls * 1e3}
    for share in (0.5, 0.99):
        bound = next(bound for bound in bounds if counts[bound] >= share * calls)
        told[f"p{share:.0%}_at_most_ms"] = float(bound) * 1e3
    told["calls_within_ms"] = {f"{float(bound) * 1e3:g}": counts[bound] for bound in bounds}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="reviews of each kind")
    parser.add_argument("--cluster", action="store_true", help="measure in the cluster that this runs in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = _in_cluster(options.count) if options.cluster else _in_process(options.count)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


def _in_cluster(count: int) -> dict[str, object]:
    cluster = Cluster.current()
    with cluster_injection.released(cluster):
        return {f"{clients}_clients": rehearsed(cluster, count, clients) for clients in (1, 8)}


def _in_process(count: int) -> dict[str, object]:
    hook, data = _webhook(), _body()
    return {
        "bytes": len(data),
        "alone": alone(hook, data, count),
        "https_1_client": asyncio.run(over_https(hook, data, count, 1)),
        "https_32_clients": asyncio.run(over_https(hook, data, count, 32)),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
