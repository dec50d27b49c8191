"""A sidecar without an operator: the same limits by one file, kept over restarts, changed under traffic."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_sidecar import app
from modelfleet_sidecar.app import Sidecar
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.settings import SettingsError
from modelfleet_sidecar.standalone.state import StateFolder
from support.standalone import fleet, ledger, model_servers, policy, standalone, write

pytestmark = pytest.mark.integration

Asked = tuple[int, str]
"""A status, and the model that answered or the reason of the error."""


async def ask(sidecar: Sidecar, http: aiohttp.ClientSession, **fields: object) -> Asked:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, **fields}
    url = f"http://{sidecar.http_address}/v1/chat/completions"
    async with http.post(url, json=body) as response:
        await response.read()
        reason = response.headers.get("x-modelfleet-reason", "")
        return response.status, response.headers.get("x-modelfleet-model", reason)


async def until(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for what nothing tells of; files are looked at every second."""
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def leased(sidecar: Sidecar) -> Callable[[], bool]:
    def holds() -> bool:
        try:
            return bool(sidecar.router.models())
        except Failure:
            return False

    return holds


def refused(sidecar: Sidecar, kind: str) -> float:
    value = sidecar.telemetry.registry.get_sample_value(
        "modelfleet_sidecar_documents_refused_total", {"kind": kind}
    )
    assert value is not None
    return value


async def test_what_was_spent_is_exactly_what_the_model_billed_and_outlives_the_process(
    tmp_path: Path,
) -> None:
    config, state = tmp_path / "config.yaml", tmp_path / "state"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        write(config, fleet({"small": servers["small"].url}), policy(budget={"limit": "1", "period": "Day"}))
        for _ in range(2):
            async with standalone(config, state) as sidecar:
                await until(leased(sidecar))
                outcomes = await asyncio.gather(*(ask(sidecar, http) for _ in range(12)))
                assert set(outcomes) == {(200, "small")}
        billed = sum(record.cost_nano_usd for record in servers["small"].records)
    stored = ledger(state).accounts[BUDGET]
    assert stored.spent == billed > 0
    assert stored.watermark == billed, "nothing that was not spent stays behind"
    assert list((state / "journal").iterdir()) == []


async def test_a_budget_that_is_spent_stays_spent_over_a_restart(tmp_path: Path) -> None:
    config, state = tmp_path / "config.yaml", tmp_path / "state"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        write(
            config,
            fleet({"small": servers["small"].url}),
            policy(budget={"limit": "0.0005", "period": "Month"}),
        )
        async with standalone(config, state) as sidecar:
            await until(leased(sidecar))
            first = Counter(await asyncio.gather(*(ask(sidecar, http) for _ in range(16))))
        async with standalone(config, state) as sidecar:
            await until(leased(sidecar))
            second = Counter(await asyncio.gather(*(ask(sidecar, http) for _ in range(16))))
        billed = sum(record.cost_nano_usd for record in servers["small"].records)
    assert set(first) == {(200, "small"), (429, "BudgetExhausted")}
    assert second[429, "BudgetExhausted"] > first[429, "BudgetExhausted"], (first, second, billed)
    assert billed <= 500_000


async def test_no_more_requests_are_in_flight_than_the_file_says(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    async with model_servers(["small"], slots=64) as servers, aiohttp.ClientSession() as http:
        write(config, fleet({"small": servers["small"].url}, in_flight=3), policy())
        async with standalone(config, None) as sidecar:
            await until(leased(sidecar))
            outcomes = await asyncio.gather(*(ask(sidecar, http) for _ in range(40)))
        assert set(outcomes) == {(200, "small")}
        assert max(record.peak_in_flight for record in servers["small"].records) == 3


async def test_requests_per_minute_hold(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        write(
            config,
            fleet({"small": servers["small"].url}, requestsPerMinute=5),
            policy(limits={"maxRequest": "1s"}),
        )
        async with standalone(config, None) as sidecar:
            await until(leased(sidecar))
            outcomes = Counter(await asyncio.gather(*(ask(sidecar, http) for _ in range(12))))
        assert outcomes[200, "small"] == len(servers["small"].records) == 5


async def test_a_changed_file_is_followed_under_traffic_and_no_request_is_lost(tmp_path: Path) -> None:
    config, state = tmp_path / "config.yaml", tmp_path / "state"
    async with model_servers(["old", "new"]) as servers, aiohttp.ClientSession() as http:
        urls = {name: server.url for name, server in servers.items()}
        budget = {"limit": "1", "period": "Day"}
        write(config, fleet({"old": urls["old"]}), policy(budget=budget))
        async with standalone(config, state) as sidecar:
            await until(leased(sidecar))
            outcomes: list[Asked] = []
            over = asyncio.Event()

            async def caller() -> None:
                while not over.is_set():
                    outcomes.append(await ask(sidecar, http))

            callers = [asyncio.create_task(caller()) for _ in range(6)]
            await until(lambda: (200, "old") in outcomes)
            write(config, fleet({"new": urls["new"]}), policy(budget=budget))
            await until(lambda: outcomes[-1] == (200, "new"))
            write(config, fleet(urls, in_flight=2), policy(tiers=[{"name": "other", "weight": 2}]))
            await until(lambda: sidecar.router.models() == ("auto", "old", "new"))
            over.set()
            await asyncio.gather(*callers)
        assert {status for status, _ in outcomes} == {200}
        answered = sum(len(server.records) for server in servers.values())
        assert len(outcomes) == answered, "each was answered once"


async def test_a_bad_file_keeps_the_last_good_one_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = tmp_path / "config.yaml"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        good = fleet({"small": servers["small"].url})
        write(config, good, policy())
        async with standalone(config, None) as sidecar:
            await until(leased(sidecar))
            write(config, good)
            await until(lambda: refused(sidecar, "manifests") == 1)
            assert await ask(sidecar, http) == (200, "small")
            config.unlink()
            await until(lambda: refused(sidecar, "manifests") == 2)
            assert await ask(sidecar, http) == (200, "small")
            write(config, good, policy())
            await until(lambda: "says again what is in force" in caplog.text)
            write(config, fleet({"tiny": servers["small"].url}), policy())
            await until(lambda: sidecar.router.models() == ("auto", "tiny"))


async def test_models_that_the_policy_names_in_vain_are_told_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "config.yaml"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        names = policy(aliases={"gpt-4": "smal"}, models={"deny": ["old"]})
        write(config, fleet({"small": servers["small"].url}), names)
        async with standalone(config, None) as sidecar:
            await until(leased(sidecar))
            assert await ask(sidecar, http) == (200, "small")
    assert "has no model smal, which aliases stand for: requests for these are refused" in caplog.text
    assert "has no model old, which models of the policy name" in caplog.text


async def test_an_estimator_that_can_not_be_read_is_told_and_priors_go_on(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        write(config, fleet({"small": servers["small"].url}), policy(estimator={"ref": {"name": "mine"}}))
        (tmp_path / "mine.npz").write_bytes(b"no estimator")
        async with standalone(config, None) as sidecar:
            await until(lambda: refused(sidecar, "estimator") == 1)
            assert await ask(sidecar, http) == (200, "small")


async def test_a_damaged_ledger_grants_nothing_and_keeps_nobody_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LEASE_PATIENCE", 0.2)  # for what comes at no start here
    config, state = tmp_path / "config.yaml", tmp_path / "state"
    async with model_servers(["small"]) as servers, aiohttp.ClientSession() as http:
        write(
            config, fleet({"small": servers["small"].url}), policy(budget={"limit": "1", "period": "Month"})
        )
        async with standalone(config, state) as sidecar:
            await until(leased(sidecar))
            assert await ask(sidecar, http) == (200, "small")
        (path,) = state.glob("ledger-*.json")
        good = path.read_text()
        path.write_text(good[:-20])
        async with standalone(config, state) as sidecar:
            assert (await ask(sidecar, http))[0] == 503
            path.write_text(good)
            await until(leased(sidecar))
            assert await ask(sidecar, http) == (200, "small")
        path.write_text(good[:-20])
        async with standalone(config, state) as sidecar:
            assert (await ask(sidecar, http))[0] == 503
        assert path.read_text() == good[:-20], "it is not written over"


async def test_it_does_not_start_with_a_bad_file_or_a_folder_in_use(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    with pytest.raises(
        SettingsError, match=r"MODELFLEET_CONFIG can not be used: .*config.yaml can not be read"
    ):
        async with standalone(config, None):
            raise AssertionError
    write(config, fleet({"small": "http://127.0.0.1:9"}), policy())
    other = StateFolder(tmp_path / "state")
    with pytest.raises(SettingsError, match=r"MODELFLEET_STATE can not be used: .* in use by another"):
        async with standalone(config, tmp_path / "state"):
            raise AssertionError
    other.close()
