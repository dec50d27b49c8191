"""The demo's parts: how endings are judged, how runs are scored, what is reported, how programs end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from modelfleet_lab.arrivals import attribution
from modelfleet_lab.controlplane.start import ControlPlane
from modelfleet_lab.demo import examples, live
from modelfleet_lab.demo.children import ChildError, Children
from modelfleet_lab.demo.evidence import Run, collect, quantile, score
from modelfleet_lab.demo.kubectl import Kubectl
from modelfleet_lab.demo.live import result_table
from modelfleet_lab.demo.reference import Mix, best_mixes, constant_models, quality_at
from modelfleet_lab.demo.replay import Ending, Outcome, Progress, ask_over_http
from modelfleet_lab.demo.report import Findings, summary, write_report
from modelfleet_lab.demo.sampling import FleetSample, Sampler, VariantSample, parse_sample
from modelfleet_lab.demo.scenario import Request, make_scenario
from modelfleet_lab.model_server import RequestRecord
from modelfleet_lab.ports import free_ports
from modelfleet_lab.questions import Question
from rich.console import Console

REQUEST = Request(0.0, Question("q1", "math", "1+1?", "2", 0.1), 0)


def record(question: str, **more: object) -> RequestRecord:
    values: dict[str, object] = {
        "request_id": question,
        "question": question,
        "model": "swift-3b",
        "server": "s",
        "start": 100.0,
        "end": 101.0,
        "first_token": 100.5,
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_nano_usd": 1_000,
        "in_flight_at_arrival": 0,
        "peak_in_flight": 1,
        "concurrency": 4,
        "over_concurrency": False,
        "correct": True,
        "cancelled": False,
        "status": 200,
        "fault": None,
    }
    return RequestRecord(**(values | more))  # type: ignore[arg-type]


def outcome(question: str, ending: Ending = Ending.ANSWERED, latency: float = 1.0) -> Outcome:
    return Outcome(question, 0.0, latency, ending, ending is Ending.ANSWERED, "swift-3b", "why")


def test_a_score_counts_what_the_servers_did() -> None:
    run = Run(
        "p",
        (
            outcome("a"),
            outcome("b"),
            outcome("c", Ending.REFUSED),
            outcome("d", Ending.LOST),
        ),
        (
            record("a"),
            record("a"),  # The same question answered twice is right once, and billed twice.
            record("b", correct=False, over_concurrency=True),
            record("c", cancelled=True, cost_nano_usd=500),
        ),
        100.0,
    )
    found = score(run, budget=3e-6)
    assert found.quality == 1 / 4
    assert found.cost_usd == pytest.approx(3.5e-6)
    assert found.overspend_usd == pytest.approx(0.5e-6)
    assert (found.concurrency_violations, found.shed, found.lost) == (1, 1, 1)
    assert score(run, budget=1.0).overspend_usd == 0.0


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.95) == 4.0
    assert quantile([], 0.5) == 0.0


def test_logs_of_all_servers_come_together_by_time(tmp_path: Path) -> None:
    for name, ends in (("x", (3.0, 1.0)), ("y", (2.0,))):
        lines = [json.dumps(asdict(record("q", end=end))) for end in ends]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n" + '{"half": ')
    assert [r.end for r in collect(tmp_path)] == [1.0, 2.0, 3.0]


@pytest.fixture
async def peer() -> AsyncIterator[tuple[str, dict[str, object]]]:
    """A server that answers each request as its `answer` says."""
    state: dict[str, object] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = state["answer"]
        if isinstance(answer, web.Response):
            return answer
        response = web.StreamResponse(headers={"x-modelfleet-model": "chosen"})
        await response.prepare(request)
        for part in answer:  # type: ignore[attr-defined]
            await response.write(part)
        if state.get("cut") and request.transport is not None:
            request.transport.abort()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", state
    await runner.cleanup()


CHUNK = b'data: {"choices": [{"delta": {"content": "Answer: 2"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}\n\n'
ERROR = b'data: {"error": {"message": "too late", "code": "deadline_exceeded"}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("answer", "cut", "ending", "detail"),
    [
        ([CHUNK, USAGE, DONE], False, Ending.ANSWERED, ""),
        ([CHUNK, ERROR, DONE], False, Ending.REFUSED, "deadline_exceeded"),
        ([CHUNK], False, Ending.LOST, "without"),
        ([CHUNK], True, Ending.LOST, "Error"),
        ([b"data: {broken\n\n", DONE], False, Ending.LOST, "Error"),
    ],
)
async def test_an_ending_is_an_answer_a_clear_error_or_a_loss(
    peer: tuple[str, dict[str, object]], answer: list[bytes], cut: bool, ending: Ending, detail: str
) -> None:
    url, state = peer
    state |= {"answer": answer, "cut": cut}
    async with aiohttp.ClientSession() as session:
        reply = await ask_over_http(session, url, "auto", REQUEST, max_tokens=8, timeout=5)
    assert reply.ending is ending
    assert detail in reply.detail
    if ending is Ending.ANSWERED:
        assert (reply.text, reply.model, reply.tokens) == ("Answer: 2", "chosen", (3, 4))


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        ('{"error": {"message": "over budget", "code": "budget_exhausted"}}', Ending.REFUSED),
        ("<html>Bad Gateway</html>", Ending.LOST),
        ('{"error": {}}', Ending.LOST),
    ],
)
async def test_a_status_without_a_reason_is_a_loss(
    peer: tuple[str, dict[str, object]], body: str, ending: Ending
) -> None:
    url, state = peer
    state["answer"] = web.Response(status=429, text=body)
    async with aiohttp.ClientSession() as session:
        reply = await ask_over_http(session, url, "auto", REQUEST, max_tokens=8, timeout=5)
    assert reply.ending is ending


async def test_no_server_and_no_answer_in_time_are_losses() -> None:
    (port,) = free_ports(1)
    async with aiohttp.ClientSession() as session:
        reply = await ask_over_http(
            session, f"http://127.0.0.1:{port}", "auto", REQUEST, max_tokens=8, timeout=5
        )
        assert reply.ending is Ending.LOST
        with socket.create_server(("127.0.0.1", port)):  # Accepts, and says nothing.
            reply = await ask_over_http(
                session, f"http://127.0.0.1:{port}", "auto", REQUEST, max_tokens=8, timeout=0.1
            )
        assert "nothing for 0.1 s" in reply.detail


def test_metrics_of_the_operator_become_a_sample() -> None:
    text = """# TYPE modelfleet_replicas gauge
modelfleet_replicas{namespace="demo",fleet="demo",model="a",variant="gpu",state="ready"} 2
modelfleet_replicas{namespace="demo",fleet="demo",model="a",variant="gpu",state="desired"} 3
# TYPE modelfleet_slots gauge
modelfleet_slots{namespace="demo",fleet="demo",model="a",variant="gpu",state="live"} 16
modelfleet_slots{namespace="demo",fleet="demo",model="a",variant="gpu",state="leased"} 9
# TYPE modelfleet_slot_price gauge
modelfleet_slot_price{namespace="demo",fleet="demo",model="a",variant="gpu",state="published"} 0.25
# TYPE modelfleet_fleet_sidecars gauge
modelfleet_fleet_sidecars{namespace="demo",fleet="demo"} 3
# TYPE modelfleet_budget_spent_usd gauge
modelfleet_budget_spent_usd{namespace="demo",policy="demo"} 0.5
"""
    sample = parse_sample(text, 7.0)
    variant = sample.variants["a"]
    assert (variant.ready, variant.desired, variant.slots, variant.leased) == (2, 3, 16, 9)
    assert (variant.price, sample.sidecars, sample.spent, sample.at) == (0.25, 3, 0.5, 7.0)


def test_the_report_holds_every_figure_and_needs_no_network(tmp_path: Path) -> None:
    scenario = make_scenario(seed=1, duration=1.0, rate=20.0)
    names = ["modelfleet", "best single (a)", "round robin", "per-query greedy", "per-query price"]
    runs = tuple(
        Run(
            name,
            (outcome("q1"), outcome("q2", Ending.REFUSED)),
            (record("q1", correct=name != "round robin"),),
            100.0,
        )
        for name in names
    )
    scores = tuple(score(run, scenario.limit) for run in runs)
    findings = Findings(
        scenario=scenario,
        scores=scores,
        runs=runs,
        budget=scenario.limit,
        replicas=dict.fromkeys(names, "1 a"),
        samples=(),
        cluster="on a test",
        seconds=12.34,
    )
    write_report(findings, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["policy"] for row in result["table"]] == names
    assert [row["quality"] for row in result["table"]] == [0.5, 0.5, 0.0, 0.5, 0.5]
    assert set(result["table"][0]) >= {"quality", "cost_usd", "latency_p50_s", "latency_p95_s", "shed"}
    assert {"seconds", "overspend_usd", "concurrency_violations", "lost_requests"} <= set(result)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert 'src="http' not in page
    assert "CC BY 4.0" in page
    console = Console(record=True, width=160)
    console.print(result_table(scores))
    shown = console.export_text()
    assert all(name in shown for name in names)


def test_the_summary_says_so_when_a_baseline_wins() -> None:
    ours = score(Run("modelfleet", (outcome("a"), outcome("b")), (record("a"),), 0.0), 1.0)
    other = score(Run("greedy", (outcome("a"), outcome("b")), (record("a"), record("b")), 0.0), 1.0)
    constants = (Mix("small", 1e-9, 0.25),)
    lost, won, same = (summary(pair, constants) for pair in ([ours, other], [other, ours], [ours, ours]))
    assert lost.startswith("A baseline wins: greedy, the best of all, answered 50.0 points")
    assert "answered 50.0 points of all requests more right than the best baseline of all" in won
    assert "the same share right" in same
    assert "would get 25.0%" in lost


def test_the_summary_compares_with_baselines_that_kept_the_budget() -> None:
    ours = score(Run("modelfleet", (outcome("a"), outcome("b")), (record("a"),), 0.0), 1.0)
    honest = score(Run("honest", (outcome("a"), outcome("b")), (), 0.0), 1.0)
    over = score(Run("over", (outcome("a"), outcome("b")), (record("a"), record("b")), 0.0), 0.0)
    assert over.overspend_usd > 0
    assert "the best baseline that kept the budget (honest)" in summary([ours, over, honest], ())


def test_random_mixes_are_the_concave_hull_of_the_constant_models() -> None:
    small, poor, medium, large = (
        Mix("small", 1.0, 0.5),
        Mix("poor", 2.0, 0.4),
        Mix("medium", 3.0, 0.6),
        Mix("large", 4.0, 0.9),
    )
    corners = best_mixes([large, medium, poor, small])
    assert [mix.model for mix in corners] == ["", "small", "large"]
    costs = (0.0, 0.5, 1.0, 2.5, 4.0, 9.0)
    assert [quality_at(corners, cost) for cost in costs] == pytest.approx([0, 0.25, 0.5, 0.7, 0.9, 0.9])


def test_a_constant_model_costs_and_knows_what_its_answers_do() -> None:
    scenario = make_scenario(seed=3, duration=2.0, rate=20.0)
    mixes = {mix.model: mix for mix in constant_models(scenario)}
    assert mixes["swift-3b"].cost_usd < mixes["sage-32b"].cost_usd < mixes["frontier"].cost_usd
    assert 0 < mixes["swift-3b"].quality < mixes["frontier"].quality <= 1
    assert mixes["swift-3b"].quality <= scenario.asked.quality("swift-3b")


def test_a_known_trace_is_attributed_by_its_name() -> None:
    assert "CC BY 4.0" in attribution(Path("x/azure_llm_2023_conv.parquet"))
    assert "Apache-2.0, kvcache-ai/Mooncake" in attribution(Path("mooncake_synthetic.parquet"))
    assert attribution(Path("own.parquet")) == "Arrivals: own.parquet, thinned and compressed in time."


async def test_plain_progress_is_short_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINE_INTERVAL", 0.01)
    printed = io.StringIO()
    view = live.View(Console(file=printed, width=60))
    view.track("best single (a-model-with-a-long-name)", Progress(640, sent=3), tmp_path, 0.25)
    variants = {"a-model-with-a-long-name": VariantSample(desired=2, ready=1)}
    view.sampler = Sampler("http://unused", samples=[FleetSample(1.0, variants, 0.0, 0.0, 3)])
    showing = asyncio.create_task(view.run())
    async with asyncio.timeout(10):
        while printed.getvalue().count("sent") < 2:  # noqa: ASYNC110 - the view tells nobody when it prints
            await asyncio.sleep(0.01)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    lines = printed.getvalue().splitlines()
    words = " ".join(lines[0].split())
    assert words == "best single 3/640 sent 0 answered 0 right 0 shed $0.0000 of $0.2500"
    assert lines.count("  replicas ready: 1 of 2 a-model-with-a-long-name") == 1
    assert all(len(line) < 120 for line in lines)


def test_progress_shows_a_replays_own_spend_and_what_the_one_before_left(tmp_path: Path) -> None:
    lines = [record("warm", cost_nano_usd=1_000), record("a", cost_nano_usd=500)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    track = live.Track("p", Progress(1), tmp_path, 1e-5, frozenset({"warm"}))
    track.refresh()
    assert (track.billed, track.budget) == (pytest.approx(5e-7), pytest.approx(9e-6))


async def test_a_program_that_ends_early_is_reported_with_its_output(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        words = [sys.executable, "-c", "import sys; print('why it failed'); sys.exit(3)"]
        child = await children.start("broken", words)
        with pytest.raises(ChildError, match="status 3") as caught:
            await children.ready(child, "http://127.0.0.1:9/")
        assert "why it failed" in str(caught.value)
        again = await children.start("broken-again", words)
        with pytest.raises(ChildError, match="broken"):
            await children.guard(asyncio.Event().wait())
        await again.process.wait()


async def test_a_failing_step_with_the_examples_shows_kubectls_words_and_the_programs_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\ncase "$*" in *"get pod "*) echo "no such pod" >&2; exit 1;; esac\n')
    kubectl.chmod(0o755)
    (port,) = free_ports(1)
    monkeypatch.setattr(examples, "EXTERNAL", f"127.0.0.1:{port}")
    console = Console(record=True, width=160)
    plane = ControlPlane(tmp_path / "no-kubeconfig", "https://127.0.0.1:9", kubectl, tmp_path / "audit.log")
    with pytest.raises(examples.ExamplesError) as caught:
        await examples.show_examples(Kubectl(plane, console), tmp_path)
    told = str(caught.value)
    assert "`kubectl get pod assistant-0 -n default -o json` ended with status 1:\nno such pod" in told
    assert "sim-frontier.log:\n" in told
    assert f"serves sim-frontier on 127.0.0.1:{port}" in told
    assert "$ kubectl apply -f examples\n" in console.export_text()


async def test_every_program_has_ended_when_the_demo_fails(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    )
    pids: list[int] = []

    async def fail_midway() -> None:
        async with Children(tmp_path) as children:
            child = await children.start("parent", [sys.executable, "-c", script])
            async with asyncio.timeout(10):
                while not child.output.read_text().strip():  # noqa: ASYNC110 - another process prints it
                    await asyncio.sleep(0.01)
            pids.extend((child.process.pid, int(child.output.read_text())))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await fail_midway()
    async with asyncio.timeout(5):
        while any(_running(pid) for pid in pids):  # noqa: ASYNC110 - the kernel ends what was killed
            await asyncio.sleep(0.01)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


def test_free_ports_differ_and_are_not_those_of_outgoing_connections() -> None:
    ports = free_ports(200)
    assert len(set(ports)) == 200
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < first
