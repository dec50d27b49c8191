"""Estimators that users install: found by name, asked for each request, done without where they fail."""

from __future__ import annotations

import logging
import math
import shutil
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.forecast import Forecast, Question
from modelfleet_sidecar.settings import SettingsError
from support.sidecars import Rig, Spec, running_sidecar

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "estimator-plugin"
SMALL, LARGE = (Spec(name, 0.5, by_task={"math": 0.5, "chat": 0.5}) for name in ("small", "large"))


def install(folder: Path, name: str, target: str) -> None:
    """Install a distribution with one estimator into a folder of `sys.path`, as pip leaves it behind."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[modelfleet.estimators]\n{name} = {target}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example, installed by what its pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    (named,) = project["project"]["entry-points"]["modelfleet.estimators"].items()
    (module,) = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    shutil.copy(EXAMPLE / module, tmp_path / module)
    install(tmp_path, *named)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("EVALUATION_TABLE", str(EXAMPLE / "evaluation.csv"))
    return tmp_path


@asynccontextmanager
async def client_of(rig: Rig) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(rig.http) as session:
        yield session


async def answered(client: aiohttp.ClientSession, task: str) -> dict[str, object]:
    """Ask for an answer about `task` and return why its model was chosen."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "a secret question"}]}
    async with client.post(
        "/v1/chat/completions", json=body, headers={"x-modelfleet-task": task}
    ) as response:
        assert response.status == 200
        await response.read()
    async with client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
        shown: dict[str, object] = await told.json()
        return shown


async def failures(rig: Rig) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{rig.admin}/metrics") as response:
        text = await response.text()
    name = "modelfleet_sidecar_estimator_failures_total "
    return float(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name))


async def test_the_example_routes_by_the_table_of_an_evaluation(installed: Path) -> None:
    async with running_sidecar(SMALL, LARGE, estimator="evaluation-table") as rig, client_of(rig) as client:
        math_shown, chat_shown = await answered(client, "math"), await answered(client, "chat")
        assert (math_shown["model"], chat_shown["model"]) == ("large", "small")
        assert math_shown["estimator_version"] == "plugin:evaluation-table"
        assert math_shown["confidence"] == pytest.approx(0.6)
        assert {one["samples"] for one in math_shown["candidates"]} == {30.0}  # type: ignore[attr-defined]
        assert await failures(rig) == 0


async def test_a_table_that_can_not_be_read_leaves_the_sidecars_own_estimates(
    installed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = installed / "bad.csv"
    table.write_text("task,model,score\nmath,small,12\n")
    monkeypatch.setenv("EVALUATION_TABLE", str(table))
    with caplog.at_level(logging.ERROR):
        async with (
            running_sidecar(SMALL, LARGE, estimator="evaluation-table") as rig,
            client_of(rig) as client,
        ):
            assert (await answered(client, "math"))["estimator_version"] == ""
            assert await failures(rig) == 1
    assert "line 2: score '12' is not from 0 to 1" in caplog.text


def raising(_question: Question, _fleet: Fleet) -> Forecast:
    raise RuntimeError("a secret question")


@pytest.mark.parametrize(
    "forecast",
    [
        raising,
        lambda _question, _fleet: Forecast([math.nan, 0.5]),
        lambda _question, _fleet: Forecast([0.5]),
        lambda _question, _fleet: Forecast([0.5, 1.5]),
        lambda _question, _fleet: Forecast([0.5, 0.5], variance=[-1.0, 0.0]),
        lambda _question, _fleet: Forecast([0.5, 0.5], output_tokens=[math.inf, 1.0]),
        lambda _question, _fleet: Forecast([0.5, 0.5], confidence=math.nan),
        lambda _question, _fleet: [0.5, 0.5],
    ],
    ids=[
        "raises",
        "NaN",
        "wrong length",
        "out of range",
        "negative variance",
        "endless",
        "confidence",
        "type",
    ],
)
async def test_a_plugin_that_fails_breaks_no_request(
    forecast: Callable[[Question, Fleet], Forecast],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "broken_estimator.py").write_text("class Broken:\n    forecast = None\n")
    install(tmp_path, "broken", "broken_estimator:Broken")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "broken_estimator", raising=False)
    with caplog.at_level(logging.ERROR):
        async with running_sidecar(SMALL, LARGE, estimator="broken") as rig, client_of(rig) as client:
            plugin = rig.sidecar.estimator.plugin
            assert plugin is not None
            monkeypatch.setattr(plugin.estimator, "forecast", forecast)
            for _ in range(3):
                assert (await answered(client, "math"))["estimator_version"] == ""
            assert await failures(rig) == 3
    assert caplog.text.count("the estimator broken failed,") == 1
    assert "secret" not in caplog.text


async def test_an_estimator_that_is_not_installed_is_said_at_the_start(installed: Path) -> None:
    with pytest.raises(
        SettingsError, match="'nonsense' is not installed here; there is 'default' and evaluation-"
    ):
        async with running_sidecar(SMALL, estimator="nonsense"):
            pass
