"""The baselines' runs: the same requests, GPUs, server programs, budget and deadline as the product's.

In: `Scenario` and past knowledge. Out: a `Run` per baseline. Next: `evidence` scores them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from modelfleet_core.catalog import Fleet

from modelfleet_lab.baselines import BestSingle, Greedy, Offer, Priced, RoundRobin, Rule
from modelfleet_lab.baselines.calibration import PastRequest, calibrated_price
from modelfleet_lab.baselines.estimates import Estimates
from modelfleet_lab.baselines.knowledge import Knowledge, all_to_one, equal_split
from modelfleet_lab.baselines.router import Router
from modelfleet_lab.demo.children import Child, Children
from modelfleet_lab.demo.evidence import Run, collect
from modelfleet_lab.demo.manifests import server_arguments
from modelfleet_lab.demo.replay import Progress, replay
from modelfleet_lab.demo.scenario import DEADLINE, LabModel, Scenario
from modelfleet_lab.ports import free_ports


@dataclass(frozen=True, slots=True)
class Rival:
    """A baseline and the replicas that it runs with."""

    label: str
    rule: Rule
    replicas: Mapping[str, int]
    offers: Mapping[str, tuple[Offer, ...]]
    """By question."""


def make_rivals(scenario: Scenario, knowledge: Knowledge, fleet: Fleet, budget: float) -> tuple[Rival, ...]:
    """Return the four baselines, in the order of the table, for a budget in USD."""
    estimates = Estimates(fleet, scenario.past, scenario.max_output_tokens)
    past_offers = estimates.offers([request.question for request in scenario.past_requests])
    past = [
        PastRequest(
            request.at,
            offered,
            {
                model.name: model.service_time(
                    knowledge.expectation(model, request.question.task).output_tokens
                )
                for model in scenario.models
            },
        )
        for request, offered in zip(scenario.past_requests, past_offers, strict=True)
    ]
    questions = scenario.asked.questions
    offers = {
        question.question_id: offer
        for question, offer in zip(questions, estimates.offers(questions), strict=True)
    }
    best = knowledge.best_single()
    alone = all_to_one(scenario.models, scenario.gpus, best)
    split = equal_split(scenario.models, scenario.gpus)
    slots = {model.name: model.concurrency * split[model.name] for model in scenario.models}
    rules: list[Rule] = [RoundRobin(), Greedy(), Priced(calibrated_price(past, slots, budget))]
    single = BestSingle(best)
    return (
        Rival(single.name, single, alone, offers),
        *(Rival(rule.name, rule, split, offers) for rule in rules),
    )


async def run_rival(
    rival: Rival,
    scenario: Scenario,
    *,
    children: Children,
    answers: Mapping[str, Path],
    folder: Path,
    budget: float,
    progress: Progress,
) -> Run:
    """Start the rival's servers, replay the scenario through it, stop them."""
    servers, started = await start_servers(rival, scenario.models, children, answers, folder)
    begin = time.time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        router = Router(
            rule=rival.rule,
            models=scenario.models,
            servers=servers,
            offers=rival.offers,
            budget=budget,
            deadline=DEADLINE,
            max_tokens=scenario.max_output_tokens,
            session=session,
        )
        await replay(scenario.requests, router.ask, progress)
    await children.stop(started)
    return Run(rival.label, tuple(progress.outcomes), collect(folder), begin)


async def start_servers(
    rival: Rival,
    models: Sequence[LabModel],
    children: Children,
    answers: Mapping[str, Path],
    folder: Path,
) -> tuple[dict[str, list[str]], list[Child]]:
    """Start the replicas and wait until all are ready; return the base URLs by model, and the processes."""
    wanted = [model for model in models for _ in range(rival.replicas[model.name])]
    servers: dict[str, list[str]] = {}
    started: list[Child] = []
    for number, (model, port) in enumerate(zip(wanted, free_ports(len(wanted)), strict=True)):
        name = f"{folder.name}-{model.name}-{number}"
        arguments = server_arguments(model, answers=answers[model.name], log=folder)
        environment = {"POD_NAME": name, "POD_IP": "127.0.0.1", "PORT": str(port)}
        started.append(await children.start(name, arguments, environment))
        servers.setdefault(model.name, []).append(f"http://127.0.0.1:{port}")
    urls = [url for model in dict.fromkeys(wanted) for url in servers[model.name]]
    await asyncio.gather(
        *(children.ready(child, f"{url}/health") for child, url in zip(started, urls, strict=True))
    )
    return servers, started
