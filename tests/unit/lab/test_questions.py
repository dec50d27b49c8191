"""Questions, their checker, and the responses of models."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelfleet_lab.arrivals import Arrival, read_trace, scaled, shipped_arrivals
from modelfleet_lab.model_server.answers import read_answers
from modelfleet_lab.questions import Question, Response, answers_file, grade
from modelfleet_lab.questions.generated import TASKS, chance, make_questions
from modelfleet_lab.questions.recorded import recorded_questions

SKILLS = {"weak": dict.fromkeys(TASKS, 0.2), "strong": dict.fromkeys(TASKS, 0.9)}


def arrivals(count: int) -> tuple[Arrival, ...]:
    return tuple(Arrival(float(i), 100, 40 + i % 300, code=i % 3 == 0) for i in range(count))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Answer: 42", True),
        ("So Answer: 41 is wrong.\nAnswer:  42 .", True),
        ("Answer: 43", False),
        ("42", False),
        ("Answer: 42 or 43", False),
        ("", False),
    ],
)
def test_only_the_last_marked_answer_counts(text: str, right: bool) -> None:
    assert grade(Question("q", "math", "?", "42", 0.5), text) is right


def test_the_same_seed_asks_the_same_and_another_seed_other_questions() -> None:
    first, again, other = (make_questions(arrivals(60), SKILLS, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert not {q.prompt for q in first.questions} & {q.prompt for q in other.questions}


def test_every_prompt_is_asked_once_so_that_answers_never_mix() -> None:
    prompts = [question.prompt for question in make_questions(arrivals(800), SKILLS, seed=3).questions]
    assert len(set(prompts)) == len(prompts)


def test_generated_code_prints_what_the_reference_says() -> None:
    for question in make_questions(arrivals(120), SKILLS, seed=5).questions:
        if question.task != "code":
            continue
        (program,) = re.findall(r"```python\n(.*?)```", question.prompt, re.S)
        printed: list[object] = []
        exec(program, {"print": printed.append, "range": range})  # noqa: S102 - a program of the generator
        assert [str(value) for value in printed] == [question.reference]


def test_the_order_of_the_queue_follows_from_its_clues() -> None:
    for question in make_questions(arrivals(200), SKILLS, seed=6).questions:
        if question.task != "logic":
            continue
        behind = dict(re.findall(r"(\w+) stands directly in front of (\w+)\.", question.prompt))
        (person,) = set(behind) - set(behind.values())
        (place,) = re.findall(r"number (\d+) from", question.prompt)
        for _ in range(int(place) - 1):
            person = behind[person]
        assert person == question.reference


def test_stronger_models_and_easier_questions_are_right_more_often() -> None:
    asked = make_questions(arrivals(900), SKILLS, seed=7)
    assert asked.quality("strong") > asked.quality("weak") + 0.3
    assert chance(0.5, 0.2) > chance(0.5, 0.5) > chance(0.5, 0.8)
    easy = [i for i, q in enumerate(asked.questions) if q.difficulty < 0.3]
    hard = [i for i, q in enumerate(asked.questions) if q.difficulty > 0.6]

    def right(indices: list[int]) -> float:
        responses = asked.responses["weak"]
        return sum(grade(asked.questions[i], responses[i].text) for i in indices) / len(indices)

    assert right(easy) > right(hard)


def test_an_answers_file_says_which_answers_are_right(tmp_path: Path) -> None:
    questions = (Question("a", "math", "1+1?", "2", 0.1), Question("b", "math", "2+2?", "4", 0.1))
    path = tmp_path / "answers.jsonl"
    path.write_text(answers_file(questions, (Response("Answer: 2", 5), Response("Answer: 5", 6))))
    assert [(a.question, a.correct, a.output_tokens) for a in read_answers(path).values()] == [
        ("a", True, 5),
        ("b", False, 6),
    ]


def test_the_shipped_trace_is_bursty_and_keeps_its_order_when_scaled() -> None:
    trace = shipped_arrivals()
    assert len(trace) == 4000
    run = scaled(trace, count=600, duration=12.0, seed=1)
    times = [arrival.at for arrival in run]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, pytest.approx(12.0))
    per_second = [sum(second <= at < second + 1 for at in times) for second in range(12)]
    mean = sum(per_second) / 12
    assert sum((n - mean) ** 2 for n in per_second) / 12 > 2 * mean  # Poisson arrivals would give about 1 x
    assert scaled(trace, count=600, duration=12.0, seed=2) != run


def test_a_trace_that_is_too_short_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the run needs 9"):
        scaled(arrivals(8), count=9, duration=1.0, seed=1)
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"t_s": [1.0, 0.5], "input_tokens": [1, 2]}), path)
    with pytest.raises(ValueError, match="output_tokens"):
        read_trace(path)
    pq.write_table(pa.table({"t_s": [1.0, 0.5], "input_tokens": [1, 2], "output_tokens": [3, 4]}), path)
    assert read_trace(path) == (Arrival(0.5, 2, 4), Arrival(1.0, 1, 3))


def recorded_data(folder: Path) -> Path:
    """Write a small data set: 30 questions, model `m` right on every second, `n` never; `x` is flagged."""
    ids = [f"q{i}" for i in range(30)]
    pq.write_table(
        pa.table(
            {
                "query_id": ids,
                "task": ["gsm8k"] * 30,
                "prompt": [f"prompt {i}" for i in range(30)],
                "ref_answer": [f"# {i}" for i in range(30)],
            }
        ),
        folder / "queries.parquet",
    )
    rows = [
        (q, model, float(i % 2 if model == "m" else 0), 10 + i) for model in "mnx" for i, q in enumerate(ids)
    ]
    names = ("query_id", "model", "quality", "output_tokens")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))),
        folder / "outcomes.parquet",
    )
    (folder / "models.csv").write_text(
        "model,experimental_or_duplicate_endpoint\nm,False\nn,False\nx,True\no1-mini-2024-09-12,False\n"
    )
    return folder


def test_recorded_outcomes_come_back_as_graded_answers(tmp_path: Path) -> None:
    past, asked = recorded_questions(recorded_data(tmp_path), ["m", "n"], ask=12, seed=1)
    assert len(asked.questions) == 12
    assert not {q.question_id for q in asked.questions} & {q.question_id for q in past.questions}
    for question, response in zip(asked.questions, asked.responses["m"], strict=True):
        number = int(question.question_id[1:])
        assert grade(question, response.text) is bool(number % 2)
        assert response.output_tokens == 10 + number
    assert asked.quality("n") == 0.0


@pytest.mark.parametrize(
    ("models", "ask", "message"),
    [
        (["x"], 5, "flagged"),
        (["o1-mini-2024-09-12"], 5, "flagged"),
        (["absent"], 5, "missing"),
        (["m"], 21, "lower the rate"),
    ],
)
def test_data_that_can_not_be_compared_is_refused(
    tmp_path: Path, models: list[str], ask: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recorded_questions(recorded_data(tmp_path), models, ask=ask, seed=1)


def test_a_folder_without_the_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"queries\.parquet is missing"):
        recorded_questions(tmp_path, ["m"], ask=1, seed=1)


def test_the_attribution_lies_beside_the_trace() -> None:
    import modelfleet_lab.arrivals as package

    text = (Path(package.__file__).parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text
    assert "Splitwise" in text
