"""Every metric says what it counts and what its labels mean, and the page of metrics says the same."""

from __future__ import annotations

import pytest
from support.metrics import GENERATOR, PROGRAMS


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_metric_and_label_is_described_in_a_sentence(program: str) -> None:
    metrics = list(GENERATOR.described(PROGRAMS[program][0]))
    assert len(metrics) >= 4
    unsaid = [metric.name for metric in metrics if not metric.help.endswith(".") or len(metric.help) < 12]
    assert unsaid == []
    assert [
        metric.name for metric in metrics for meaning in metric.labels.values() if len(meaning) < 12
    ] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_metric_of_time_or_money_names_its_unit(program: str) -> None:
    units = {"seconds": "econd", "usd": "USD"}
    unsaid = [
        metric.name
        for metric in GENERATOR.described(PROGRAMS[program][0])
        for unit, word in units.items()
        if unit in metric.name.split("_") and word not in metric.help and "period" not in metric.help
    ]
    assert unsaid == []


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert GENERATOR.PAGE.read_text(encoding="utf-8") == GENERATOR.page(), "run make generate"
