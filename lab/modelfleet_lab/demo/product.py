"""The product's run on the embedded cluster: operator, sidecars and model servers as separate processes.

In: `Scenario` and past knowledge. Out: the `Run` and the operator's samples. Next: `evidence` scores it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from modelfleet_lab.baselines.knowledge import Knowledge
from modelfleet_lab.demo.children import Child, Children, free_ports
from modelfleet_lab.demo.evidence import NANO, Run, collect
from modelfleet_lab.demo.live import View
from modelfleet_lab.demo.manifests import (
    NAMESPACE,
    Manifest,
    all_manifests,
    application_uid,
    server_arguments,
)
from modelfleet_lab.demo.replay import GRACE, Progress, Reply, ask_over_http, replay
from modelfleet_lab.demo.sampling import FleetSample, Sampler
from modelfleet_lab.demo.scenario import DEADLINE, SHARES, SLACK, WARM_UP, Request, Scenario

POLICY = "modelfleet"
PERIOD = 3600.0
READY_IN = 8.0
"""Seconds that operator and sidecars are expected to need until traffic can start."""
LATE = 3.0
"""Seconds that the start may be late before the budget's period would end within the run."""
ATTEMPTS = 3


class LateStartError(RuntimeError):
    """Operator and sidecars took so long that the run would reach into the next budget period."""


@dataclass(frozen=True, slots=True)
class ProductRun:
    run: Run
    samples: tuple[FleetSample, ...]
    budget: float
    """USD that the run could spend: the policy's limit less what the warm-up was billed."""
    replicas: str
    """With which replicas the run began and ended, in words."""


@dataclass(frozen=True, slots=True)
class Running:
    """The started product."""

    sampler: Sampler
    sidecars: Sequence[str]
    """Base URL of each application's sidecar."""


async def run_product(
    scenario: Scenario,
    knowledge: Knowledge,
    *,
    children: Children,
    answers: Mapping[str, Path],
    folder: Path,
    view: View,
) -> ProductRun:
    """Start everything, replay the scenario through the sidecars, stop everything."""
    external = await _start_external(scenario, children, answers, folder)
    manifests = all_manifests(
        scenario,
        knowledge,
        answers=answers,
        log=folder,
        external={name: url for name, (_, url) in external.items()},
    )
    path = folder / "manifests.yaml"
    path.write_text(_yaml(manifests), encoding="utf-8")
    ready_in = READY_IN
    for attempt in range(1, ATTEMPTS + 1):
        view.stage("starting operator, model servers and sidecars")
        begun = time.time()
        end = begun + ready_in + WARM_UP + scenario.duration + SLACK
        async with _started(path, folder, children, _offset(end)) as running:
            view.sampler = running.sampler
            await _serving(running.sampler, children)
            took = time.time() - begun
            if took <= ready_in + LATE or attempt == ATTEMPTS:
                return await _replay(scenario, running, children, folder, view)
        view.stage(f"they took {took:.0f} s, too long for this budget period; once more")
        ready_in = took + 1.0
    raise LateStartError(f"operator and sidecars took more than {ready_in:.0f} s to start; free the machine")


async def _replay(
    scenario: Scenario, running: Running, children: Children, folder: Path, view: View
) -> ProductRun:
    """Replay warm-up and run without a pause in between; only the run counts."""
    warm_up, progress = Progress(len(scenario.warm_up)), Progress(len(scenario.requests))
    view.track("modelfleet, warm-up", warm_up, folder, scenario.limit)
    view.track(POLICY, progress, folder, scenario.limit)
    view.stage(
        f"replaying {warm_up.total} + {progress.total} requests through {len(running.sidecars)} sidecars"
    )
    begin = time.time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(request: Request) -> Reply:
            return await ask_over_http(
                session,
                running.sidecars[request.application],
                "auto",
                request,
                max_tokens=scenario.max_output_tokens,
                timeout=DEADLINE + GRACE,
            )

        async def both() -> None:
            warming = asyncio.create_task(replay(scenario.warm_up, ask, warm_up))
            await asyncio.sleep(WARM_UP)
            await replay(scenario.requests, ask, progress)
            await warming

        await children.guard(both())
    started = begin + WARM_UP
    asked = {request.question.question_id for request in scenario.requests}
    records = collect(folder)
    before = sum(record.cost_nano_usd for record in records if record.question not in asked)
    samples = tuple(sample for sample in running.sampler.samples if sample.at >= started - 1.0)
    return ProductRun(
        Run(
            POLICY,
            tuple(progress.outcomes),
            tuple(record for record in records if record.question in asked),
            started,
        ),
        samples,
        budget=scenario.limit - before / NANO,
        replicas=_replicas(samples),
    )


def _replicas(samples: Sequence[FleetSample]) -> str:
    def words(sample: FleetSample) -> str:
        return ", ".join(f"{v.ready} {model}" for model, v in sample.variants.items() if v.desired or v.ready)

    return f"{words(samples[0])} → {words(samples[-1])}"


def _offset(end: float) -> float:
    """Return the clock offset that makes a budget period end at `end` (seconds since 1970)."""
    return -(end % PERIOD)


def _yaml(manifests: Sequence[Manifest]) -> str:
    """Return the manifests as one YAML stream (JSON is YAML)."""
    return "---\n".join(json.dumps(manifest, indent=1) + "\n" for manifest in manifests)


async def _start_external(
    scenario: Scenario, children: Children, answers: Mapping[str, Path], folder: Path
) -> dict[str, tuple[Child, str]]:
    """Start the endpoints that are not in the cluster; return process and base URL by model."""
    models = [model for model in scenario.models if model.external]
    started: dict[str, tuple[Child, str]] = {}
    for model, port in zip(models, free_ports(len(models)), strict=True):
        environment = {"POD_NAME": f"external-{model.name}", "POD_IP": "127.0.0.1", "PORT": str(port)}
        arguments = server_arguments(model, answers=answers[model.name], log=folder)
        child = await children.start(f"external-{model.name}", arguments, environment)
        started[model.name] = child, f"http://127.0.0.1:{port}"
    for child, url in started.values():
        await children.ready(child, f"{url}/health")
    return started


@contextlib.asynccontextmanager
async def _started(
    manifests: Path, folder: Path, children: Children, clock_offset: float
) -> AsyncIterator[Running]:
    """Run operator and sidecars while the context lasts."""
    capacity, probes, *ports = free_ports(2 + 3 * len(SHARES))
    programs: list[Child] = []
    sampling: asyncio.Task[None] | None = None
    try:
        operator = await children.start(
            "operator",
            [sys.executable, "-m", "modelfleet_operator"],
            {
                "MODELFLEET_CLUSTER": "embedded",
                "MODELFLEET_MANIFESTS": str(manifests),
                "MODELFLEET_LOGS": str(folder / "pods"),
                "MODELFLEET_NAMESPACE": NAMESPACE,
                "MODELFLEET_CAPACITY_LISTEN": f"127.0.0.1:{capacity}",
                "MODELFLEET_HTTP_LISTEN": f"127.0.0.1:{probes}",
                "MODELFLEET_CLOCK_OFFSET": f"{clock_offset:.3f}",
            },
        )
        programs.append(operator)
        await children.ready(operator, f"http://127.0.0.1:{probes}/readyz")
        sampler = Sampler(f"http://127.0.0.1:{probes}/metrics")
        sampling = asyncio.create_task(sampler.run())
        sidecars = []
        for index in range(len(SHARES)):
            grpc, http, admin = ports[3 * index : 3 * index + 3]
            sidecar = await children.start(
                f"sidecar-{index}",
                [sys.executable, "-m", "modelfleet_sidecar"],
                {
                    "MODELFLEET_OPERATOR": f"127.0.0.1:{capacity}",
                    "MODELFLEET_NAMESPACE": NAMESPACE,
                    "MODELFLEET_POD_NAME": f"app-{index}",
                    "MODELFLEET_POD_UID": application_uid(index),
                    "MODELFLEET_GRPC_LISTEN": f"127.0.0.1:{grpc}",
                    "MODELFLEET_HTTP_LISTEN": f"127.0.0.1:{http}",
                    "MODELFLEET_ADMIN_LISTEN": f"127.0.0.1:{admin}",
                },
            )
            programs.append(sidecar)
            sidecars.append((sidecar, http, admin))
        await asyncio.gather(
            *(children.ready(child, f"http://127.0.0.1:{admin}/readyz") for child, _, admin in sidecars)
        )
        yield Running(sampler, [f"http://127.0.0.1:{http}" for _, http, _ in sidecars])
    finally:
        if sampling is not None:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        # Sidecars first, so that they can give back what they hold.
        await children.stop(programs[1:])
        await children.stop(programs[:1])


async def _serving(sampler: Sampler, children: Children, *, timeout: float = 60.0) -> None:
    """Return once all sidecars have leases and every replica asked for is ready."""

    def complete() -> bool:
        if not sampler.samples:
            return False
        sample = sampler.samples[-1]
        ready = all(v.ready >= 1 for v in sample.variants.values() if v.desired)
        return sample.sidecars >= len(SHARES) and ready and any(v.ready for v in sample.variants.values())

    async def wait() -> None:
        async with asyncio.timeout(timeout):
            while not complete():
                sampler.fresh.clear()
                await sampler.fresh.wait()

    await children.guard(wait())
