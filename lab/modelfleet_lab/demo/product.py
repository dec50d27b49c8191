"""The product's run: the scenario through operator, sidecars and model servers, all separate processes.

In: `Scenario`, past knowledge and the host. Out: the `Run` and the operator's samples. Next: `evidence`
scores it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from modelfleet_lab.baselines.knowledge import Knowledge
from modelfleet_lab.demo.children import Children
from modelfleet_lab.demo.evidence import NANO, Run, collect
from modelfleet_lab.demo.hosts import Host
from modelfleet_lab.demo.live import View
from modelfleet_lab.demo.manifests import all_manifests, server_arguments
from modelfleet_lab.demo.programs import Running
from modelfleet_lab.demo.replay import GRACE, Progress, Reply, ask_over_http, replay
from modelfleet_lab.demo.sampling import FleetSample
from modelfleet_lab.demo.scenario import DEADLINE, WARM_UP, Request, Scenario
from modelfleet_lab.ports import free_ports

POLICY = "modelfleet"


@dataclass(frozen=True, slots=True)
class ProductRun:
    run: Run
    samples: tuple[FleetSample, ...]
    budget: float
    """USD for the run, and so for each baseline: the scenario's limit less what the warm-up was billed, and
    no less than the run was billed.
    """
    hard_limit: float
    """USD that the policy's limit left for the run."""
    replicas: str
    """With which replicas the run began and ended, in words."""


async def run_product(
    scenario: Scenario,
    knowledge: Knowledge,
    host: Host,
    *,
    children: Children,
    answers: Mapping[str, Path],
    folder: Path,
    view: View,
) -> ProductRun:
    """Start everything, replay the scenario through the sidecars, stop everything."""
    external = await _start_external(scenario, children, answers, folder)
    limit = host.limit(scenario)
    manifests = all_manifests(
        scenario, knowledge, limit=limit, answers=answers, log=folder, external=external
    )
    view.stage("starting operator, model servers and sidecars")
    async with host.running(scenario, manifests, folder, children) as running:
        view.sampler = running.sampler
        return await _replay(scenario, limit, running, children, folder, view)


async def _replay(
    scenario: Scenario, limit: float, running: Running, children: Children, folder: Path, view: View
) -> ProductRun:
    """Replay warm-up and run without a pause in between; only the run counts."""
    warm_up, progress = Progress(len(scenario.warm_up)), Progress(len(scenario.requests))
    view.track("modelfleet, warm-up", warm_up, folder, limit)
    before = frozenset(request.question.question_id for request in scenario.warm_up)
    view.track(POLICY, progress, folder, limit, before)
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
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(replay(scenario.warm_up, ask, warm_up))
                await asyncio.sleep(WARM_UP)
                await replay(scenario.requests, ask, progress)

        await children.guard(both())
    started = begin + WARM_UP
    asked = {request.question.question_id for request in scenario.requests}
    records = collect(folder)
    earlier = sum(record.cost_nano_usd for record in records if record.question not in asked)
    during = tuple(record for record in records if record.question in asked)
    samples = tuple(sample for sample in running.sampler.samples if sample.at >= started - 1.0)
    return ProductRun(
        Run(POLICY, tuple(progress.outcomes), during, started),
        samples,
        budget=max(scenario.limit - earlier / NANO, sum(record.cost_nano_usd for record in during) / NANO),
        hard_limit=limit - earlier / NANO,
        replicas=_replicas(samples),
    )


def _replicas(samples: Sequence[FleetSample]) -> str:
    def words(sample: FleetSample) -> str:
        return ", ".join(
            f"{v.ready} × {model}" for model, v in sample.variants.items() if v.desired or v.ready
        )

    first, last = words(samples[0]), words(samples[-1])
    return first if first == last else f"{first} → {last}"


async def _start_external(
    scenario: Scenario, children: Children, answers: Mapping[str, Path], folder: Path
) -> dict[str, str]:
    """Start the endpoints that are not in the cluster; return their base URLs by model."""
    models = [model for model in scenario.models if model.external]
    urls: dict[str, str] = {}
    for model, port in zip(models, free_ports(len(models)), strict=True):
        environment = {"POD_NAME": f"external-{model.name}", "POD_IP": "127.0.0.1", "PORT": str(port)}
        arguments = server_arguments(model, answers=answers[model.name], log=folder)
        child = await children.start(f"external-{model.name}", arguments, environment)
        urls[model.name] = f"http://127.0.0.1:{port}"
        await children.ready(child, f"{urls[model.name]}/health")
    return urls
