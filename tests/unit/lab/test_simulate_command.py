"""`modelfleet simulate`: options become a scenario, wrong ones say what to do, files are written."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from modelfleet_lab.__main__ import main
from modelfleet_lab.simulate import command
from modelfleet_lab.simulate.command import scenario_for
from modelfleet_lab.simulate.events import Timeline
from modelfleet_lab.simulate.play import CENTRAL, PLAYERS, PRODUCT, named, play
from modelfleet_lab.simulate.plots import mean_over_time
from modelfleet_lab.simulate.report import caption
from modelfleet_lab.simulate.scenario import FAULTS, MODELS, Scenario, check, scenario_from
from modelfleet_lab.simulate.workload import WARM_UP, workload

SMALL = ["--sidecars", "2", "--slots", "8", "--duration", "4", "--players", "modelfleet"]


def test_a_run_writes_figures_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *SMALL, "--faults", "some", "-o", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["violations"] == 0
    assert 0 < result["players"][0]["share"] <= 1
    assert result["scenario"]["slots"] == 8
    for name in ("quality", "waits", "slots", "messages", "prices"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "modelfleet" in capsys.readouterr().out


def test_the_scenario_of_a_result_can_be_played_again(tmp_path: Path) -> None:
    assert main(["simulate", *SMALL, "--seed", "9", "-o", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "result.json").read_text())["scenario"]
    file = tmp_path / "again.json"
    file.write_text(json.dumps(stored))
    assert json.loads(json.dumps(scenario_from(file).data())) == stored


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "can not be read"),
        ('{"sidecar": 3}', "no field 'sidecar'"),
        ('{"faults": {"meteor": 1}}', "does not fit"),
        ('{"sidecars": 0}', "sidecars is 0"),
        ('{"load": -1}', "load is -1"),
        ('{"seed": -1}', "seed is -1; it must be 0 or more"),
        ('{"sidecars": "five"}', "has sidecars 'five'; write a whole number"),
        ('{"load": true}', "has load True; write a number"),
        ('{"scaling": 1}', "has scaling 1; write true or false"),
    ],
)
def test_a_wrong_scenario_file_is_refused_with_the_reason(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        scenario_from(file)


def test_a_missing_scenario_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--scenario", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--arrivals", "burst:0"], ["--load", "0"], ["--players", "nobody"]])
def test_wrong_options_are_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", *option])
    assert ended.value.code == 2


def test_a_folder_that_can_not_be_written_is_told_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert main(["simulate", *SMALL, "-o", str(tmp_path / "file")]) == 2
    printed = capsys.readouterr().out
    assert "can not be written" in printed
    assert "playing" not in printed


def test_where_nobody_can_answer_in_time_no_quality_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *SMALL, "--deadline", "0.001", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "nobody can answer a request before its deadline" in " ".join(printed.split())
    assert "100.0%" not in printed


def test_a_run_without_a_request_says_what_to_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *SMALL, "--load", "0.0001", "-o", str(tmp_path)]) == 2
    assert "no request arrives within 4 s" in capsys.readouterr().out


@pytest.mark.parametrize(("wait", "told"), [(0.0, False), (0.5, True)])
def test_a_wait_of_nothing_is_no_measure_of_waits(wait: float, told: bool) -> None:
    played = play(Scenario(sidecars=2, slots=8, duration=4.0), (PRODUCT, CENTRAL))
    product, central = played.games
    central = replace(central, figures=replace(central.figures, mean_wait=wait))
    said = caption(replace(played, games=(product, central)))
    assert ("times that of one central queue" in said) is told


def test_a_span_without_requests_has_no_quality_rather_than_none() -> None:
    load = workload(Scenario(sidecars=2, slots=8, duration=4.0))
    edges = np.array([0.0, WARM_UP, load.arrived.max() + 1.0])
    middles, means = mean_over_time(load, edges, load.weight)
    assert middles.tolist() == [edges[1:].mean()]
    assert means == pytest.approx([1.0])


def test_options_change_the_named_scenario() -> None:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    words = ["simulate", "--scenario", "scarce", "--arrivals", "burst:50", "--faults", "all"]
    options = parser.parse_args(words)
    scenario = scenario_for(options)
    assert (scenario.sidecars, scenario.slots, scenario.burst) == (200, 32, 50)
    assert scenario.faults == FAULTS["all"]


def test_slots_are_shared_out_whole_and_every_model_has_one() -> None:
    for slots in (len(MODELS), 9, 32, 100, 401):
        counts = Scenario(slots=slots).slots_by_model()
        assert sum(counts.values()) == slots
        assert min(counts.values()) >= 1
    with pytest.raises(ValueError, match="slots is 3"):
        check(Scenario(slots=3))


def test_arrivals_bring_the_load_that_was_asked_for() -> None:
    for burst in (1, 20):
        scenario = Scenario(duration=600.0, burst=burst, seed=4)
        load = workload(scenario)
        assert len(load) == pytest.approx(scenario.rate() * scenario.duration, rel=0.15)
        assert load.arrived.min() >= WARM_UP
        assert (np.diff(load.arrived) >= 0).all()
        if burst > 1:
            assert (load.sidecar.reshape(-1, burst) == load.sidecar[::burst, None]).all()


def test_demand_drifts_between_sidecars() -> None:
    still = workload(Scenario(duration=400.0, drift=0.0))
    moving = workload(Scenario(duration=400.0, drift=5.0))
    busiest = [np.bincount(load.sidecar, minlength=50).max() / len(load) for load in (still, moving)]
    assert busiest[1] < busiest[0]


def test_events_happen_in_order_of_time_then_of_scheduling() -> None:
    timeline, seen = Timeline(), []
    timeline.at(2.0, lambda: seen.append("late"))
    timeline.at(1.0, lambda: seen.append("first"))
    timeline.at(1.0, lambda: timeline.at(0.5, lambda: seen.append("past is now")))
    dropped = timeline.at(1.5, lambda: seen.append("never"))
    dropped.cancel()
    timeline.run(until=3.0)
    assert seen == ["first", "past is now", "late"]
    assert timeline.now == 2.0


def test_players_are_found_by_name() -> None:
    assert [player.name for player in named(list(PLAYERS))] == list(PLAYERS)
    with pytest.raises(ValueError, match="nobody"):
        named(["nobody"])
