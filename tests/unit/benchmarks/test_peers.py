"""The comparison of gateways: what it reads of processes, metrics and answers, and the tables it prints."""

from __future__ import annotations

import json
import math
import struct
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from modelfleet.v1 import router_pb2

from benchmarks.peers import (
    __main__ as program,
)
from benchmarks.peers import (
    fleet,
    hardships,
    messages,
    metrics,
    phases,
    plain,
    processes,
    prompts,
    table,
)
from benchmarks.peers.targets import Place, Target
from benchmarks.peers.tools import Load

ROOT = Path(__file__).resolve().parents[3]
PAGE, FIGURES = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.json"


def test_a_programs_tree_has_all_that_it_started_and_nobody_else() -> None:
    assert sorted(processes.tree(5, {5: 1, 6: 5, 7: 6, 8: 1, 9: 8})) == [5, 6, 7]


def test_a_process_whose_name_has_brackets_is_read() -> None:
    fields = processes.stat_fields("17 (a) b (c) S 4 17 17 0 -1 4194304 1 2 3 4 25 10 0 0 20 0")
    assert fields[:2] == ["S", "4"]
    assert fields[11:13] == ["25", "10"]


def test_callers_sockets_are_those_at_its_own_ports_without_the_listener() -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    row = "   {}: 0100007F:{} 0100007F:1234 {} 00000000:00000000 00:00000000 00000000     0        0 {} 1\n"
    listener, caller, other = (
        row.format(0, "46A0", "0A", 11),
        row.format(1, "46A0", "01", 22),
        row.format(2, "9999", "01", 33),
    )
    assert processes.connections(head + listener + caller + other, [0x46A0]) == ["22"]


def test_prompts_all_differ_are_of_one_size_and_come_again_from_their_seed() -> None:
    made = prompts.prompts(500, seed=3)
    assert len(set(made)) == 500
    assert {len(text) for text in made} == {prompts.CHARACTERS}
    assert made == prompts.prompts(500, seed=3) != prompts.prompts(500, seed=4)


def test_bodies_stand_behind_their_lengths(tmp_path: Path) -> None:
    bodies = [b"one", b"", prompts.chat_body("hi", model="auto", stream=True)]
    content = prompts.write_bodies(tmp_path / "some.bodies", bodies).read_bytes()
    found = []
    while content:
        (length,) = struct.unpack(">I", content[:4])
        found.append(content[4 : 4 + length])
        content = content[4 + length :]
    assert found == bodies
    assert json.loads(bodies[2])["stream"] is True


def test_a_decision_begins_with_its_id_by_which_the_load_generator_settles() -> None:
    decision = router_pb2.RouteDecision(decision_id="d-1", model="small").SerializeToString()
    settle = router_pb2.SettleRequest(decision_id="d-1").SerializeToString()
    assert decision.startswith(settle)
    assert router_pb2.RouteRequest.FromString(messages.route_message("hi")).chat.model == "auto"


METRICS = """# TYPE lag_seconds histogram
lag_seconds_bucket{le="0.001",loop="a"} 90.0
lag_seconds_bucket{le="0.01",loop="a"} 100.0
lag_seconds_bucket{le="+Inf",loop="a"} 100.0
lag_seconds_bucket{le="0.001",loop="b"} 0.0
lag_seconds_bucket{le="0.01",loop="b"} 0.0
lag_seconds_bucket{le="+Inf",loop="b"} 100.0
lag_seconds_count 200.0
"""


def test_a_histograms_labels_count_together() -> None:
    assert metrics.buckets(METRICS, "lag_seconds") == {0.001: 90.0, 0.01: 100.0, math.inf: 200.0}
    assert metrics.buckets(METRICS, "other_seconds") == {}


@pytest.mark.parametrize(
    ("after", "q", "expected"),
    [
        ({0.1: 10.0, 0.2: 20.0, math.inf: 20.0}, 0.5, 0.1),
        ({0.1: 10.0, 0.2: 20.0, math.inf: 20.0}, 0.75, 0.15),
        ({0.1: 10.0, 0.2: 20.0, math.inf: 40.0}, 0.99, None),
        ({0.1: 0.0, math.inf: 0.0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_a_quantile_is_linear_within_its_bucket_or_unknown(
    after: dict[float, float], q: float, expected: float | None
) -> None:
    assert metrics.quantile({}, after, q) == (None if expected is None else pytest.approx(expected))


def test_what_was_counted_before_does_not_count() -> None:
    before, after = {0.1: 100.0, 0.2: 100.0, math.inf: 100.0}, {0.1: 100.0, 0.2: 110.0, math.inf: 110.0}
    assert metrics.quantile(before, after, 0.5) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi", False),
        (b"HTTP/1.1 200", False),
    ],
)
def test_an_answer_is_whole_by_its_chunks_or_its_length(content: bytes, whole: bool) -> None:
    assert plain.whole(content) is whole


class _Idle:
    """A program that does nothing, in 64 MiB."""

    def resident_mb(self) -> float:
        return 64.0


class _Busy(_Idle):
    """Its most, in a phase."""

    def __init__(self, _: object) -> None:
        pass

    def __enter__(self) -> SimpleNamespace:
        return SimpleNamespace(resident_mb=70.04)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["sidecar", "sidecar_grpc", "litellm"])
def test_a_target_has_its_figures_by_the_names_that_others_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(_Idle(), "http://127.0.0.1:1", ready_s=1.234)  # type: ignore[arg-type]
    monkeypatch.setitem(program.STARTS, name, lambda *_, **__: nullcontext(target))  # type: ignore[misc]
    monkeypatch.setattr(program.targets, "sidecar", lambda *_, **__: nullcontext(target))
    monkeypatch.setattr(program, "Peak", _Busy)
    monkeypatch.setattr(program.time, "sleep", lambda _: None)
    load = Load("unary", "http://127.0.0.1:1", tmp_path)
    monkeypatch.setattr(phases, "load_of", lambda *_, **__: load)
    monkeypatch.setattr(phases, "run_load", lambda *_: {})
    monkeypatch.setattr(phases, "per_cpu", lambda *_: {"per_cpu_s": 900.0, "per_s": 800.0})
    monkeypatch.setattr(phases, "paced", lambda *_, **__: {"per_cpu_s": 11_000.0, "added_first_p50_ms": 2.0})
    monkeypatch.setattr(phases, "added", lambda *_: {"p50_ms": 1.5, "p99_ms": 3.5})
    for hardship in ("loop_lag", "cancels", "burst"):
        monkeypatch.setattr(hardships, hardship, lambda *_: {})
    effort = phases.QUICK
    bench = phases.Bench(None, None, {"route": tmp_path}, effort, lambda _: None)  # type: ignore[arg-type]
    place = Place(tmp_path, (), None, tmp_path, lambda _: None)
    figures = program.measure(name, bench, place, quick=True)
    expected = {
        "requests_per_cpu_s": 900.0,
        "chunks_per_cpu_s": 11_000.0,
        "added_p50_ms": 1.5,
        "added_p99_ms": 3.5,
        "rss_idle_mb": 64.0,
        "rss_load_mb": 70.0,
        "ready_s": 1.23,
    }
    assert {key: figures[key] for key in expected} == expected


def _figures() -> dict[str, Any]:
    about = {
        "machine": "a processor",
        "cores": 2,
        "kernel": "6.18",
        "python": "3.11",
        "versions": {"modelfleet": "0.1.0"},
    }
    sidecar = {"requests_per_cpu_s": 2600.0, "chunks_per_cpu_s": 9000.0, "cancel_ms": {"unary": None}}
    return {"about": about, "targets": {"sidecar": sidecar, "litellm": {"requests_per_cpu_s": 100.0}}}


def test_a_page_says_when_and_of_which_commits_its_figures_are() -> None:
    figures = _figures()
    figures["targets"]["sidecar"] |= {"date": "2026-11-23 01:30 UTC", "commit": "def"}
    figures["targets"]["litellm"] |= {"date": "2026-11-23 01:00 UTC", "commit": "abc"}
    assert "2026-11-23 01:00 UTC to 2026-11-23 01:30 UTC, commit abc, def; a processor" in table.page(figures)


def test_goals_are_met_missed_or_not_measured() -> None:
    printed = table.goals_table(_figures())
    assert "| HTTP relay: requests / CPU s | >= 1,050 | 2,000 | 2,600 | yes |" in printed
    assert "| 64 paced streams: chunks / CPU s | >= 10,700 | 15,000 | 9,000 | **no** |" in printed
    assert "| ready after start, s | <= 2 | 1 | - | - |" in printed
    assert "a multiple of `litellm`'s | >= 25 |  | 26.00 | yes |" in printed


def test_what_a_target_does_not_have_is_a_dash() -> None:
    printed = table.main_table(_figures())
    assert "| `litellm` | 100 | - | - | - | - | - | - | - |" in printed


def test_what_did_not_happen_is_told_from_what_was_not_looked_for() -> None:
    printed = table.behaviours_table(_figures())
    assert "| cancel ms unary max ms | never |" in printed
    assert "| cancel ms stream max ms | - |" in printed


def test_the_documented_tables_are_those_of_the_documented_figures() -> None:
    printed = table.page(json.loads(FIGURES.read_text(encoding="utf-8"))).strip()
    assert printed in PAGE.read_text(encoding="utf-8"), f"put this into docs/performance.md:\n{printed}"


def test_the_measured_fleet_has_a_model_for_each_upstream_and_its_estimator_beside_it(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{port}" for port in range(4)]
    written = fleet.write_config(tmp_path, urls, slots=7, estimator=b"trained")
    models, policy = (json.loads(line)["spec"] for line in written.read_text().split("---\n"))
    assert [model["variants"][0]["concurrency"] for model in models["models"]] == [7] * 4
    assert (tmp_path / f"{policy['estimator']['ref']['name']}.npz").read_bytes() == b"trained"
    without = fleet.write_config(tmp_path, urls, slots=7, estimator=None).read_text()
    assert "estimator" not in without
