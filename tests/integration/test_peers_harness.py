"""The comparison of gateways runs: its programs are built, and a sidecar answers every kind of load."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.peers import hardships, messages, phases, prompts
from benchmarks.peers.targets import Place, sidecar
from benchmarks.peers.tools import SOURCES, build, run_load, running_mock

pytestmark = pytest.mark.integration
ASKED, CHUNKS = 12, 7
EFFORT = phases.Effort(rounds=1, seconds=30.0, streams=ASKED)


@pytest.mark.parametrize("command", [["gofmt", "-l", "."], ["go", "vet", "./..."], ["go", "test", "./..."]])
def test_the_go_programs_are_formatted_vetted_and_tested(command: list[str]) -> None:
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert command[0] != "gofmt" or not done.stdout


def _bodies(folder: Path) -> dict[str, Path]:
    texts = prompts.prompts(ASKED, seed=1)
    return {
        "unary": prompts.write_bodies(
            folder / "unary", (prompts.chat_body(t, model="auto", stream=False) for t in texts)
        ),
        "stream": prompts.write_bodies(
            folder / "stream", (prompts.chat_body(t, model="auto", stream=True) for t in texts)
        ),
        "grpc": prompts.write_bodies(folder / "grpc", map(messages.chat_message, texts)),
    }


def test_a_sidecar_answers_every_kind_of_load_and_leaves_no_call_behind(tmp_path: Path) -> None:
    tools, bodies = build(tmp_path / "bin"), _bodies(tmp_path)
    bodies["grpc-stream"] = bodies["grpc"]
    with running_mock(tools, tmp_path) as mock:
        bench = phases.Bench(tools, mock, bodies, EFFORT, lambda _: None)
        with sidecar(Place(tmp_path, mock.urls, None, tmp_path, lambda _: None)) as target:
            mock.behave(chunks=CHUNKS)
            for kind in bodies:
                load = phases.load_of(bench, target, kind, 4, requests=ASKED)
                figures = phases.costed(bench, target.program, load)
                assert (figures["ok"], figures["statuses"]) == (ASKED, {"200": ASKED})
                assert figures["server_cpu_s"] > 0
                if kind == "stream":
                    assert figures["chunks"] >= ASKED * CHUNKS
            seen = hardships.cancels(bench, target, times=1)
            assert seen["unary"] is not None
            assert seen["stream"] is not None
            mock.behave(faults=[{"fault": "500", "of": 1.0}])
            failed = run_load(tools, phases.load_of(bench, target, "unary", 1, requests=1))
            assert failed["ok"] == 0
