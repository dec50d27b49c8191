"""Learning replayed: what feedback teaches is measured on queries that nobody was told of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.evaluate.learning import Learning, Staleness, run, trained_on
from modelfleet_lab.outcomes import Recorded

CODE = (
    'def {name}(items: list) -> list:\n    """Return {name} of items.\n    >>> {name}([{n}])\n    [{n}]"""\n'
)
CHAT = "hi, what could i tell my friend number {n} about {name}? we have not met in a while"
PROSE = "Write a short story about {name} and the sea. Make it warm, and end with {n} surprises."
SUMS = "Ann has {n} apples and buys 12 more for 3 dollars each. How many does {name} get of them?"


def recorded(n: int = 480) -> Recorded:
    """Four kinds of requests; the one model is right on two of them, the other on the others."""
    rng = np.random.default_rng(3)
    kinds = {"code": CODE, "chat": CHAT, "prose": PROSE, "sums": SUMS}
    tasks = [list(kinds)[k % 4] for k in range(n)]
    prompts = [kinds[task].format(name=f"thing{k}", n=k) for k, task in enumerate(tasks)]
    known = known_tasks(tasks)
    right = np.array([[0.8, 0.5] if task in known else [0.2, 0.8] for task in tasks])
    quality = (rng.random((n, 2)) < right).astype(float)
    return Recorded(
        prompts=tuple(prompts),
        tasks=tuple(tasks),
        models=("one", "other"),
        quality=quality,
        cost=np.full((n, 2), 0.001),
        input_tokens=np.full(n, 100.0),
        output_tokens=np.full((n, 2), 100.0),
        price_in=np.array([1e-6, 1e-6]),
        price_out=np.array([1e-6, 1e-6]),
    )


def known_tasks(tasks: list[str], kind: Staleness = Staleness.HALF, seed: int = 0) -> set[str]:
    """Return the tasks that a prior of that staleness knows."""
    members = trained_on(kind, ["hi"] * len(tasks), tasks, seed)
    return {task for task, member in zip(tasks, members, strict=True) if member}


def replayed(*staleness: Staleness, **choices: object) -> Learning:
    kinds = staleness or (Staleness.HALF,)
    return run(recorded(), seed=0, seeds=1, staleness=kinds, progress=lambda text: None, **choices)  # type: ignore[arg-type]


def test_half_of_the_tasks_are_known_and_the_seed_says_which() -> None:
    tasks = [f"task{number}" for number in range(7)]
    assert len(known_tasks(tasks)) == 3
    assert known_tasks(tasks) == known_tasks(list(reversed(tasks)) * 2)
    assert len({tuple(sorted(known_tasks(tasks, seed=seed))) for seed in range(10)}) > 1
    assert known_tasks(tasks, Staleness.QUARTER) < known_tasks(tasks)


def test_a_prior_of_other_proportions_knows_less_of_each_task_than_of_the_one_before() -> None:
    tasks = [f"task{number % 3}" for number in range(3000)]
    members = trained_on(Staleness.PROPORTIONS, ["hi"] * 3000, tasks, 0)
    counts = sorted(int(members[number::3].sum()) for number in range(3))
    assert counts == pytest.approx([250, 500, 1000], rel=0.15)


def test_a_prior_of_code_and_maths_knows_tasks_most_of_whose_texts_are_that() -> None:
    data = recorded(40)
    members = trained_on(Staleness.FAMILY, data.prompts, data.tasks, 0)
    assert {task for task, member in zip(data.tasks, members, strict=True) if member} >= {"code"}
    assert not any(member for task, member in zip(data.tasks, members, strict=True) if task == "prose")


def test_feedback_recovers_most_of_what_a_stale_prior_loses_where_kinds_are_plain() -> None:
    document = replayed(requests=2000).json()
    assert document["offline"] - document["stale"] > 0.1  # type: ignore[operator]
    assert document["recovered"] > 0.45  # type: ignore[operator]
    assert json.loads(json.dumps(document)) == document
    assert document["curve"]["requests"] == [500, 1000, 1500, 2000]  # type: ignore[index]


def test_without_feedback_nothing_is_learned() -> None:
    document = replayed(requests=500, feedback=0.0).json()
    assert document["learned"] == document["stale"]


def test_a_replay_is_the_same_twice() -> None:
    first, again = (replayed(Staleness.PROPORTIONS, requests=500).json() for _ in range(2))
    assert first == again
    assert list(first["priors"]) == ["proportions"]  # type: ignore[call-overload]


def test_data_of_one_task_is_refused() -> None:
    data = recorded(40)
    with pytest.raises(ValueError, match="fewer than two"):
        run(replace(data, tasks=("code",) * 40), seed=0, progress=lambda text: None)
