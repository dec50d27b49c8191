"""`modelfleet plan`: what would be bought and why; a mistake in manifests or demand is one clear line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelfleet_core.allocation.program import Program
from modelfleet_lab.__main__ import main
from modelfleet_lab.plan.demand import read_demand
from modelfleet_lab.plan.manifests import Declared, read_declared
from modelfleet_lab.plan.study import Study, study, value_of
from support.manifests import fleet_manifest, policy_manifest

ROOT = Path(__file__).resolve().parents[3]
FLEET, POLICY = ROOT / "examples" / "fleet.yaml", ROOT / "examples" / "policy.yaml"


def declared(*paths: Path) -> Declared:
    return read_declared(paths or (FLEET,))


def studied(demand: str, *, budget: str | None = None, tmp_path: Path) -> Study:
    manifest = yaml.safe_load(FLEET.read_text())
    manifest["spec"]["budget"] = {} if budget is None else {"hourly": budget}
    if budget is None:
        del manifest["spec"]["budget"]
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(manifest))
    found = declared(path)
    return study(found.fleet, read_demand(demand, found), {}, time_limit=10.0)


def test_the_example_says_what_would_be_bought_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.json"
    assert main(["plan", "-f", str(FLEET), "--demand", "20", "--json", str(file)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    figures: dict[str, Any] = json.loads(file.read_text())
    assert figures["requestsPerSecond"] == pytest.approx(20.0)
    assert figures["hourlyCost"] <= 16.0 + 1e-6
    assert figures["gap"] <= 0.005
    for variant in figures["variants"]:
        assert variant["reason"] in printed
        assert f"{variant['model']}/{variant['variant']}" in printed
    assert "one more gains" in printed
    assert f"of {figures['hourlyBudget']:.2f}" in printed


def test_what_the_figures_say_adds_up(tmp_path: Path) -> None:
    found = studied(str(ROOT / "examples" / "demand.csv"), budget="16", tmp_path=tmp_path)
    fleet = found.problem.fleet
    assert found.answered == pytest.approx(sum(found.requests(model.name) for model in fleet.models))
    assert found.asked == pytest.approx(21.0)
    assert found.answered <= found.asked + 1e-6
    assert found.shed_share == pytest.approx(1.0 - found.answered / found.asked, abs=1e-9)
    assert found.quality <= found.answered
    assert found.value == pytest.approx(value_of(found.problem, found.plan))
    gpus = {pool.name: pool.hourly_cost * found.plan.gpus[pool.name] for pool in fleet.pools}
    assert sum(gpus.values()) <= found.plan.hourly_cost + 1e-9 <= 16.0 + 1e-6


def test_one_more_gpu_gains_where_gpus_bind_and_nothing_where_they_do_not(tmp_path: Path) -> None:
    crowded = studied("60", tmp_path=tmp_path)
    assert crowded.plan.gpus[crowded.problem.fleet.pools[0].name] == 4
    h100, l4 = (crowded.gpu[pool.name] for pool in crowded.problem.fleet.pools)
    assert h100.price > 0
    assert (h100.gain, h100.step) == (0.0, 2), "only large is below its most replicas, and needs two GPUs"
    assert h100.step_gain > 0
    quiet = studied("0.2", tmp_path=tmp_path)
    assert all(worth.gain == pytest.approx(0.0, abs=1e-6) for worth in quiet.gpu.values())
    assert crowded.dollar is None
    assert (l4.gain, l4.step_gain) == (0.0, 0.0), "small has all the replicas that it may have"


def test_one_more_dollar_gains_as_its_price_says_while_the_budget_binds(tmp_path: Path) -> None:
    poor = studied("20", budget="16", tmp_path=tmp_path)
    assert poor.dollar is not None
    assert poor.dollar.gain == pytest.approx(poor.dollar.price, rel=0.05)
    rich = studied("0.2", budget="1000", tmp_path=tmp_path)
    assert rich.dollar is not None
    assert (rich.dollar.price, rich.dollar.gain) == (pytest.approx(0.0), pytest.approx(0.0, abs=1e-6))


def test_a_policy_gives_weights_and_limits_what_its_requests_spend(tmp_path: Path) -> None:
    found = declared(FLEET, POLICY)
    text = tmp_path / "demand.yaml"
    text.write_text("requests: [{tier: gold, task: math, rate: 1, outputTokens: 4000}, {rate: 2}]")
    gold, standard = read_demand(str(text), found)
    assert (gold.tier, gold.weight, gold.shed_penalty) == ("gold", 3.0, 1.5)
    assert (standard.tier, standard.weight) == ("standard", 1.0)
    capped = read_demand(_written(tmp_path, "requests: [{task: math, rate: 1, outputTokens: 512}]"), found)
    assert gold.offers == capped[0].offers, "answers are no longer than the policy allows"


def test_yaml_and_csv_say_the_same(tmp_path: Path) -> None:
    found = declared()
    table = tmp_path / "demand.csv"
    table.write_text(
        "rate,task,input_tokens,output_tokens,quality:large\n2.5,math,300,400,0.9\n1,,,,\n", encoding="utf-8"
    )
    listed = _written(
        tmp_path,
        "requests: [{rate: 2.5, task: math, inputTokens: 300, outputTokens: 400, quality: {large: 0.9}}, "
        "{rate: 1}]",
    )
    assert read_demand(str(table), found) == read_demand(listed, found)
    offers = {name: offer.quality for name, offer in read_demand(listed, found)[0].offers.items()}
    assert offers["large"] == 0.9  # type: ignore[index]  # names are texts
    assert offers["medium"] == 0.55  # type: ignore[index]


def test_a_model_is_offered_no_request_that_is_too_long_for_it(tmp_path: Path) -> None:
    (demand,) = read_demand(_written(tmp_path, "requests: [{rate: 1, inputTokens: 40000}]"), declared())
    assert set(demand.offers) == {"large", "frontier"}


def _written(folder: Path, text: str, name: str = "demand.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("demand", "says"),
    [
        ("0", "--demand 0: write requests per second, above 0"),
        ("-3", "--demand -3: write requests per second, above 0"),
        ("nan", "--demand nan: write requests per second, above 0"),
        ("1e300", "--demand 1e300: write requests per second, above 0 and up to 1e+09"),
        ("absent.yaml", "No such file"),
        ("requests: 5", "write a list `requests`"),
        ("requests: []", "write a list `requests`"),
        ("requests: [{task: math}]", "requests[0]: rate is missing"),
        ("requests: [{rate: -1}]", "requests[0]: rate -1 is refused; write a number from 0"),
        ("requests: [{rate: many}]", "requests[0]: rate 'many' is refused"),
        ("requests: [{rate: .nan}]", "requests[0]: rate nan is refused"),
        ("requests: [{rate: true}]", "requests[0]: rate True is refused"),
        ("requests: [5]", "requests[0] is no mapping"),
        ("requests: [{rate: 1, speed: 2}]", "requests[0]: speed is not known; known are rate, policy"),
        ("requests: [{rate: 1, tier: gold}]", "requests[0]: tier gold without a RoutingPolicy"),
        ("requests: [{rate: 1, policy: other}]", "requests[0]: policy other is not there"),
        ("requests: [{rate: 1, quality: {huge: 1}}]", "requests[0]: huge is no model of fleet chat"),
        (
            "requests: [{rate: 1, quality: {large: 2}}]",
            "quality of large 2 is refused; write a number from 0 to 1",
        ),
        ("requests: [{rate: 1", "is no YAML"),
    ],
)
def test_a_demand_that_can_not_be_used_ends_in_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demand: str, says: str
) -> None:
    given = _written(tmp_path, demand) if ":" in demand else demand
    assert main(["plan", "-f", str(FLEET), "--demand", given]) == 2
    printed = capsys.readouterr().out
    assert says in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1: the column rate is missing"),
        ("rate\n", "no line below the header"),
        (
            "rate;task\n3;math\n",
            "line 1: column rate;task is not known; write a comma between columns of rate",
        ),
        ("rate,rate\n3,4\n", "line 1: column rate is there twice"),
        ("rate,task\n3,math,extra\n", "line 2 has 3 values, the header 2 columns"),
        ("rate,quality:large\n3,2\n", "line 2: quality of large '2' is refused"),
    ],
)
def test_a_csv_that_can_not_be_used_says_the_line_in_the_words_of_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    path = _written(tmp_path, content, "demand.csv")
    assert main(["plan", "-f", str(FLEET), "--demand", path]) == 2
    assert says in capsys.readouterr().out


def test_a_csv_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = _written(tmp_path, "\ufeffrate, task \n 3, math\n\n", "demand.csv")
    found = read_demand(path, declared())
    assert [(demand.rate, demand.task) for demand in found] == [(3.0, "math")]


def test_a_rate_for_several_policies_says_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = [fleet_manifest(), policy_manifest(), policy_manifest("second")]
    path = _written(tmp_path, yaml.safe_dump_all(manifests), "fleet.yaml")
    assert main(["plan", "-f", path, "--demand", "1"]) == 2
    assert "say in a file which requests are whose" in capsys.readouterr().out


def test_what_a_plan_does_not_count_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet, policy = yaml.safe_load(FLEET.read_text()), yaml.safe_load(POLICY.read_text())
    fleet["spec"]["models"][-1]["variants"][0]["limits"] = {"tokensPerMinute": 5000}
    policy["spec"]["quotas"] = [{"models": ["large"], "requests": 5}]
    policy["spec"]["budget"]["shares"] = [{"models": ["large"], "max": "5%"}]
    path = _written(tmp_path, yaml.safe_dump_all([fleet, policy]), "fleet.yaml")
    demand = _written(tmp_path, "rate,task\n1,latin\n", "demand.csv")
    assert main(["plan", "-f", path, "--demand", demand]) == 0
    printed = capsys.readouterr().out
    assert "task latin is in no model's quality.byTask: quality.prior counts" in printed
    assert "RoutingPolicy default/assistant: a plan does not count budget.shares, quotas" in printed
    assert "frontier/api: a plan does not count limits.tokensPerMinute" in printed


def test_files_that_can_not_be_written_are_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    refused = str(tmp_path / "file" / "plan.html")
    assert main(["plan", "-f", str(FLEET), "--demand", "20", "-o", refused]) == 2
    printed = capsys.readouterr().out
    assert f"{refused} can not be written" in printed
    assert printed.count("\n") == 1


def test_a_demand_far_above_the_fleet_is_told_in_figures_that_can_be_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "-f", str(FLEET), "--demand", "1e6"]) == 0
    printed = capsys.readouterr().out
    assert "1,000,000 requests/s" in printed
    assert "<0.1%" in printed
    assert ">99.9% of the requests are shed" in printed
    assert "e+" not in printed


@pytest.mark.parametrize(
    ("manifests", "says"),
    [
        ([policy_manifest()], "0 manifests of kind ModelFleet; give exactly one"),
        ([fleet_manifest(), fleet_manifest("second")], "2 manifests of kind ModelFleet"),
        ([fleet_manifest() | {"spec": {}}], "spec.models"),
        (["text"], "a document is no manifest"),
    ],
)
def test_manifests_that_can_not_be_used_end_in_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manifests: list[Any], says: str
) -> None:
    path = _written(tmp_path, yaml.safe_dump_all(manifests), "fleet.yaml")
    assert main(["plan", "-f", path, "--demand", "1"]) == 2
    printed = capsys.readouterr().out
    assert says in printed
    assert path in printed
    assert printed.count("\n") == 1


def test_unknown_fields_and_other_fleets_policies_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = fleet_manifest()
    fleet["spec"]["poools"] = []
    other = policy_manifest()
    other["spec"]["fleetRef"] = {"name": "elsewhere"}
    path = _written(tmp_path, yaml.safe_dump_all([fleet, other]), "fleet.yaml")
    assert main(["plan", "-f", path, "--demand", "1"]) == 0
    printed = capsys.readouterr().out
    assert "spec.poools is not known" in printed
    assert "RoutingPolicy ml/assistant is for fleet ml/elsewhere, not ml/chat: left out" in printed


def test_without_time_for_the_program_there_is_still_a_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Program, "solve", lambda *args, **kwargs: None)
    assert main(["plan", "-f", str(FLEET), "--demand", "20"]) == 0
    assert "Fallback: no plan is worth more than" in capsys.readouterr().out


def test_the_tables_can_be_kept_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, text = tmp_path / "out" / "plan.html", tmp_path / "out" / "plan.txt"
    for path in (page, text):
        assert main(["plan", "-f", str(FLEET), "--demand", "20", "-o", str(path)]) == 0
        assert "What would run" in path.read_text()
    assert page.read_text().lstrip().startswith("<!DOCTYPE html>")
    assert str(page) in capsys.readouterr().out.replace("\n", "")


def test_every_command_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = re.findall(r"^modelfleet (plan .*)$", (ROOT / "docs" / "plan.md").read_text(), re.MULTILINE)
    assert len(commands) >= 3
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    assert "What would run" in capsys.readouterr().out
