"""Dashboard and alerts ask for metrics and labels that there are, and each alert has a runbook."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.metrics import ROOT, series

CHART = ROOT / "charts" / "modelfleet"
OF_THE_TARGET = frozenset({"namespace", "pod", "container", "instance", "job"})
"""Labels that a scrape adds."""
SELECTOR = re.compile(r"(modelfleet_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*"')
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")
LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")
DOLLAR_LABEL = re.compile(r"\$labels\.(\w+)")


def _panels() -> Iterator[tuple[str, str, str]]:
    """Yield the title, expression and legend of every query of the dashboard."""
    board = json.loads((CHART / "dashboards" / "modelfleet.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


QUERIES = [*((f"panel {title}", text) for title, text, _ in _panels())]
QUERIES += [(f"alert {rule['alert']}", rule["expr"]) for rule in _alerts()]


def _problems(expression: str, known: dict[str, frozenset[str]]) -> Iterator[str]:
    used: set[str] = set()
    for name, matchers in SELECTOR.findall(expression):
        if name not in known:
            yield f"no metric {name}"
            continue
        used |= known[name]
        asked = set(MATCHER.findall(matchers))
        if unknown := asked - known[name] - OF_THE_TARGET:
            yield f"{name} has no label {', '.join(sorted(unknown))}"
    for group in GROUPING.findall(expression):
        labels = {label.strip() for label in group.split(",")}
        if unknown := labels - used - OF_THE_TARGET:
            yield f"no metric of the query has the label {', '.join(sorted(unknown))}"
    if "modelfleet_" not in expression:
        yield "it asks for nothing of ours"


@pytest.mark.parametrize(("where", "expression"), QUERIES, ids=[where for where, _ in QUERIES])
def test_a_query_asks_for_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    assert list(_problems(expression, series())) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(modelfleet_sidecar_request_total)", "no metric modelfleet_sidecar_request_total"),
        ("rate(modelfleet_sidecar_request_seconds[5m])", "no metric modelfleet_sidecar_request_seconds"),
        ('modelfleet_slots{status="live"}', "modelfleet_slots has no label status"),
        ("sum by (tier) (modelfleet_slots)", "no metric of the query has the label tier"),
        ("up", "it asks for nothing of ours"),
    ],
)
def test_a_query_for_what_does_not_exist_is_found(expression: str, problem: str) -> None:
    assert list(_problems(expression, series())) == [problem]


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    asked = {name for _, text in QUERIES for name, _ in SELECTOR.findall(text)}
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    unseen = {name for name in series() if re.sub(r"_(bucket|sum|count)$", "", name) not in stems}
    spoken_of_elsewhere = {
        "modelfleet_events_total",  # watch events, for whoever debugs the operator
        "modelfleet_told_events_total",
        "modelfleet_fleet_ready",  # modelfleet_fleet_condition says it of every condition
        "modelfleet_policy_ready",
        "modelfleet_policy_sidecars",
        "modelfleet_sidecar_expired_decisions_total",
        "modelfleet_injector_reloads_total",
    }
    assert unseen <= spoken_of_elsewhere


def test_legends_and_texts_name_labels_that_their_query_keeps() -> None:
    known = series()
    wrong = []
    texts = [(text, legend, LEGEND) for _, text, legend in _panels()]
    for rule in _alerts():
        texts += [(rule["expr"], said, DOLLAR_LABEL) for said in rule["annotations"].values()]
    for expression, said, pattern in texts:
        kept = set.union(set(), *(known[name] for name, _ in SELECTOR.findall(expression))) | OF_THE_TARGET
        groups = re.findall(r"\bby\s*\(([^)]*)\)", expression)
        if groups:
            kept = {label.strip() for group in groups for label in group.split(",")}
        wrong += [f"{said!r} of {expression}" for label in pattern.findall(said) if label not in kept]
    assert wrong == []


def test_each_alert_says_what_is_wrong_how_grave_it_is_and_has_a_runbook() -> None:
    page = (ROOT / "docs" / "observe.md").read_text(encoding="utf-8")
    sections = re.split(r"(?m)^### ", page.split("\n## Runbooks\n")[1])
    runbooks = {text.split("\n", 1)[0]: text.split("\n", 1)[1].strip() for text in sections[1:]}
    names = [rule["alert"] for rule in _alerts()]
    assert len(set(names)) == len(names) > 20
    for rule in _alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} == set(rule["annotations"])
        assert len(runbooks.get(rule["alert"], "")) > 40, f"docs/observe.md has no runbook of {rule['alert']}"
    assert set(runbooks) == set(names)


def test_panels_do_not_overlap_and_have_unique_numbers() -> None:
    board = json.loads((CHART / "dashboards" / "modelfleet.json").read_text(encoding="utf-8"))
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= taken
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers) > 40


def test_the_dashboard_is_what_its_tool_writes() -> None:
    spec = importlib.util.spec_from_file_location("gen_dashboard", Path(ROOT / "tools" / "gen_dashboard.py"))
    assert spec is not None
    assert spec.loader is not None
    tool: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    assert tool.BOARD.read_text(encoding="utf-8") == tool.board(), "run make generate"
