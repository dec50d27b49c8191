"""The log: one line per decision at debug, one line of counts a minute at info, JSON where asked for."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.logs import SUMMARY, DecisionLines, JsonFormatter, log_to_stderr
from modelfleet_sidecar.telemetry import Telemetry


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("modelfleet_sidecar")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_a_json_line_has_the_fields_of_the_operators_log_and_the_figures() -> None:
    record = logging.makeLogRecord(
        {
            "name": "a.b",
            "levelno": 30,
            "levelname": "WARNING",
            "msg": "was %s",
            "args": ("late",),
            "tier": "gold",
        }
    )
    line = json.loads(JsonFormatter().format(record))
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "a.b", "message": "was late", "tier": "gold"}
    try:
        raise ValueError("broken")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: broken" in json.loads(JsonFormatter().format(record))["error"]


@pytest.mark.usefixtures("restored")
def test_the_level_and_the_form_are_those_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("json", "warning")
    logging.getLogger("modelfleet_sidecar.x").info("left out")
    logging.getLogger("modelfleet_sidecar.x").warning("said")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["said"]
    log_to_stderr("text", "debug")
    logging.getLogger("modelfleet_sidecar.x").debug("all of it")
    assert "DEBUG modelfleet_sidecar.x: all of it" in capsys.readouterr().err


def test_a_minute_of_refusals_and_retries_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines = DecisionLines()
    lines.sum_up(0.0)
    for _ in range(1000):
        lines.refused("NoFreeSlot")
    lines.retried("UpstreamCut")
    lines.sum_up(SUMMARY / 2)
    assert caplog.records == []
    lines.sum_up(SUMMARY)
    lines.sum_up(2 * SUMMARY)
    (record,) = caplog.records
    assert vars(record)["refused"] == {"NoFreeSlot": 1000}
    assert vars(record)["retried"] == {"UpstreamCut": 1}
    assert "decided" not in record.getMessage()


def test_what_is_counted_in_metrics_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    telemetry = Telemetry()
    telemetry.refused("NoLease")
    telemetry.retried(Failure(Fault.UNAVAILABLE, "UpstreamCut", "broke off"))
    assert [vars(record)["reason"] for record in caplog.records] == ["NoLease", "UpstreamCut"]


def test_requests_that_failed_at_a_model_are_in_the_line_and_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    telemetry = Telemetry()
    telemetry._lines.sum_up(0.0)
    for outcome in ("Ok", "Cancelled", "UpstreamError", "UpstreamError"):
        telemetry.request("small", "gold", outcome, 0.1)
    telemetry.request("", "gold", "NoLease", 0.1)  # refused: counted there
    telemetry._lines.sum_up(SUMMARY)
    (record,) = caplog.records
    assert vars(record)["failed"] == {"small UpstreamError": 2}
