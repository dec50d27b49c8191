"""The page of evaluations: what it says, that it needs nothing else, and what it refuses."""

from __future__ import annotations

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from modelfleet_lab.__main__ import main
from modelfleet_lab.report.findings import findings
from modelfleet_lab.report.page import render
from modelfleet_lab.report.verdicts import sentences
from support.evaluations import evaluation
from support.recorded_folder import recorded, write_folder


class Page(HTMLParser):
    """Text and tags of a page; every tag that is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        found = dict(attributes)
        self.addresses += [
            value for key, value in found.items() if key in ("src", "href", "xlink:href") and value
        ]
        self.ids += [value for key, value in found.items() if key == "id" and value]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html() -> str:
    return render([evaluation()])


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def both() -> Page:
    return Page(render([evaluation(), evaluation(name="other", seed=3)]))


def test_the_page_needs_nothing_else(html: str, page: Page) -> None:
    assert page.open == []
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert "<script" not in html
    assert re.findall(r"url\((?!#)", html) == []
    assert set(page.addresses) <= {f"#{name}" for name in page.ids}


def test_ids_of_several_evaluations_do_not_meet(both: Page) -> None:
    assert len(both.ids) == len(set(both.ids))


def test_every_plot_is_a_picture_whose_colours_follow_the_page(html: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(pictures) == 9
    for picture in pictures:
        ElementTree.fromstring(picture)  # noqa: S314 - our own drawing
        assert "var(--plot-" in picture
        assert re.findall(r"(?:stroke|fill): ?#(?!000000|ffffff)[0-9a-f]{6}", picture) == []
    light, dark = (
        set(re.findall(r"(--plot-\d+): #", part)) for part in html.split("prefers-color-scheme", 1)
    )
    assert light == dark
    assert len(light) > 8


def test_names_of_models_are_text_and_nothing_else(html: str, page: Page) -> None:
    assert "large <b>$x$ & co" in page.text
    assert "<b>$x$" not in html


def test_the_command_stands_at_every_figure(html: str, page: Page) -> None:
    assert html.count("<code>modelfleet evaluate --data made-up --seed 0</code>") == html.count("<svg") + 2


def test_the_page_names_the_data_and_its_licence(page: Page) -> None:
    assert "licence and origin: CC0, made up" in page.text
    assert "o1-mini (hidden_reasoning_tokens)" in page.text
    assert "1 models cost less or more than the axis shows" in page.text


def test_the_page_says_what_learning_recovers(page: Page) -> None:
    assert "At the end 60 % (50 .. 70) of what training on everything would gain is recovered." in page.text
    assert "20.0 % of the answers are scored" in page.text


def test_only_intervals_without_zero_count_as_better_or_worse() -> None:
    found = findings(evaluation(ahead={"hull": 1.5, "task_mean": -2.0, "ridge": 0.5, "port": 0.0}), "one")
    said = " ".join(sentences(found))
    assert (
        "Better at every budget of the table below, with 95 % intervals above 0: than random mixes of" in said
    )
    assert "worse at any: against ridge regression and PORT." in said
    assert "Worse, with an interval below 0 at one budget or more: than task mean (told the task)." in said
    assert "95 % of its quality for 10.0 % (9.0 .. 11.0) of its cost" in said
    assert "Random mixes of constant models take 11.0 % (10.0 .. 12.0) for 95 % and" in said
    assert "It does not reach 100 %." in said
    assert "-0.4 points against the best single model of the other tasks on average, and -2.0 on the" in said
    assert "of 2 tasks 1 are better, 1 worse, the rest open" in said
    assert (
        "1.5 times over, at equal cost: better than greedy in arrival order and best constant model; " in said
    )
    assert "worse than PORT." in said


def test_sections_that_were_not_run_are_left_out() -> None:
    document = evaluation()
    for section in ("capacity", "order", "pressure", "allocation", "loto", "learning"):
        document[section] = None
    page = Page(render([document]))
    assert "Scarce slots" not in page.text
    assert "Quality against cost" in page.text


def test_several_evaluations_share_a_table(page: Page, both: Page) -> None:
    assert "data, seed" in both.text
    assert "data, seed" not in page.text
    assert both.text.index("made-up, 0") < both.text.index("other, 3") < both.text.index("made-up, seed 0")


def test_the_command_writes_a_page_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "one.json", tmp_path / "out" / "report.html"
    path.write_text(json.dumps(evaluation(seed=1)), encoding="utf-8")
    assert main(["report", "--json", str(path), "-o", str(output)]) == 0
    assert "made-up, seed 1" in Page(output.read_text(encoding="utf-8")).text
    assert "written to" in capsys.readouterr().out


def test_folders_are_evaluated_by_the_command_that_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "made-up", recorded(1, n=40))
    asked = []

    def evaluated(options: argparse.Namespace, console: object) -> int:
        asked.append(
            (options.seed, options.leave_one_task_out, options.learning, options.capacity, options.order)
        )
        unplayed = dict.fromkeys(("capacity", "order", "pressure", "allocation", "loto", "learning"))
        document = evaluation(seed=options.seed) | unplayed | {"command": options.typed}
        options.json.write_text(json.dumps(document), encoding="utf-8")
        return 0

    monkeypatch.setattr("modelfleet_lab.evaluate.command.run", evaluated)
    output = tmp_path / "report.html"
    assert main(["report", "--data", str(folder), "--seeds", "0", "4", "-o", str(output)]) == 0
    orders = ["random", "easy-to-hard", "cost"]
    assert asked == [(seed, True, True, [1.5, 3.0], orders) for seed in (0, 4)]
    assert (
        f"--seed 4 --leave-one-task-out --learning --capacity 1.5 3 --order {' '.join(orders)}"
        in output.read_text(encoding="utf-8")
    )
    assert (tmp_path / "made-up-4.json").exists()


def test_folders_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(tmp_path / name / "data") for name in "ab"]
    assert main(["report", "--data", *folders, "-o", str(tmp_path / "r.html")]) == 2
    assert "have the same name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "it must be an object"),
        ('{"schema": "other/1"}', "is of schema 'other/1'"),
        ('{"schema": "modelfleet.evaluation/1"}', "'data' is missing; write the file anew"),
    ],
)
def test_files_that_are_no_evaluation_are_named(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    assert main(["report", "--json", str(path), "-o", str(tmp_path / "r.html")]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "a.json" in shown
    assert message in shown


def test_a_value_of_the_wrong_kind_is_named_with_its_place() -> None:
    document = evaluation()
    policies = document["policies"]
    assert isinstance(policies, dict)
    policies["hull"]["r25_ci"] = [0.1]
    with pytest.raises(
        ValueError, match=r"one: policies: hull: r25_ci is \[0.1\]; it must be a pair of numbers"
    ):
        findings(document, "one")
    policies["hull"]["r25"] = "much"
    with pytest.raises(ValueError, match="one: policies: hull: r25 is 'much'; it must be a number or null"):
        findings(document, "one")


def test_a_best_model_that_is_free_is_not_said_to_be_out_of_reach() -> None:
    document = evaluation()
    policies = document["policies"]
    assert isinstance(policies, dict)
    for policy in policies.values():
        for name in [key for key in policy if key[0] in "kr" and key[1:3].isdigit()]:
            policy[name] = None
    (first, *_) = sentences(findings(document, "one"))
    assert "costs nothing" in first
