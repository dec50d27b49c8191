"""The whole demo: the product's run, the baselines' runs, the report.

In: options of the command line. Out: `report.html`, `result.json` and a table. Next: the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelfleet_core.manifests import parse_fleet
from rich.console import Console

from modelfleet_lab.baselines.knowledge import Knowledge
from modelfleet_lab.demo.children import Children
from modelfleet_lab.demo.evidence import Run, score
from modelfleet_lab.demo.hosts import Host
from modelfleet_lab.demo.live import View, result_table
from modelfleet_lab.demo.manifests import fleet_manifest
from modelfleet_lab.demo.product import run_product
from modelfleet_lab.demo.replay import Progress
from modelfleet_lab.demo.report import Findings, summary, write_report
from modelfleet_lab.demo.rivals import Rival, make_rivals, run_rival
from modelfleet_lab.demo.scenario import Scenario, make_scenario
from modelfleet_lab.questions import answers_file

ELSEWHERE = "http://127.0.0.1:9"
"""Stands for the external endpoint where only its declared figures matter."""


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    duration: float
    rate: float
    data: Path | None
    trace: Path | None
    output: Path


async def run_demo(options: Options, host: Host, console: Console) -> Findings:
    """Run all policies, write the report; raise ValueError on bad data, ChildError when a program fails."""
    begin = time.monotonic()
    scenario = make_scenario(
        seed=options.seed,
        duration=options.duration,
        rate=options.rate,
        data=options.data,
        trace=options.trace,
    )
    knowledge = Knowledge(scenario)
    work = _fresh(options.output / "run")
    answers = _write_answers(scenario, work)
    view = View(console)
    showing = asyncio.create_task(view.run())
    try:
        async with Children(work / "output") as children:
            product = await run_product(
                scenario,
                knowledge,
                host,
                children=children,
                answers=answers,
                folder=_fresh(work / "modelfleet"),
                view=view,
            )
        budget = product.budget
        rivals = _rivals(scenario, knowledge, budget)
        runs = [product.run]
        view.stage("the same through the baselines, each with servers of its own")
        async with Children(work / "output") as children:
            runs += await asyncio.gather(
                *(_run_rival(rival, scenario, budget, children, answers, work, view) for rival in rivals)
            )
        view.stage("writing the report")
        findings = Findings(
            scenario=scenario,
            scores=(
                score(product.run, product.hard_limit),
                *(score(run, budget) for run in runs[1:]),
            ),
            runs=tuple(runs),
            replicas={
                product.run.policy: product.replicas,
                **{rival.label: _words(rival.replicas) for rival in rivals},
            },
            samples=product.samples,
            budget=budget,
            cluster=host.words,
            seconds=time.monotonic() - begin,
        )
        write_report(findings, options.output)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
    console.print(result_table(findings.scores))
    console.print(summary(findings.scores, findings.constants), highlight=False)
    console.print(f"Report: {options.output / 'report.html'}; figures: {options.output / 'result.json'}")
    return findings


async def _run_rival(
    rival: Rival,
    scenario: Scenario,
    budget: float,
    children: Children,
    answers: Mapping[str, Path],
    work: Path,
    view: View,
) -> Run:
    """Run one baseline in a folder of its own."""
    progress = Progress(len(scenario.requests))
    folder = _fresh(work / rival.label.split(" (")[0].replace(" ", "-"))
    view.track(rival.label, progress, folder, budget)
    return await run_rival(
        rival,
        scenario,
        children=children,
        answers=answers,
        folder=folder,
        budget=budget,
        progress=progress,
    )


def _rivals(scenario: Scenario, knowledge: Knowledge, budget: float) -> tuple[Rival, ...]:
    external = {model.name: ELSEWHERE for model in scenario.models if model.external}
    fleet = parse_fleet(fleet_manifest(scenario, knowledge, external))
    return make_rivals(scenario, knowledge, fleet, budget)


def _words(replicas: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {model}" for model, count in replicas.items() if count)


def _fresh(folder: Path) -> Path:
    """Return the empty folder; what an earlier run left in it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _write_answers(scenario: Scenario, folder: Path) -> dict[str, Path]:
    """Write each model's answers file; return the paths by model."""
    paths: dict[str, Path] = {}
    for model in scenario.models:
        paths[model.name] = folder / f"answers-{model.name}.jsonl"
        text = "".join(
            answers_file(known.questions, known.responses[model.name])
            for known in (scenario.past, scenario.asked)
        )
        paths[model.name].write_text(text, encoding="utf-8")
    return paths
