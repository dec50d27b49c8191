"""Learning replayed: what feedback teaches is measured on queries that nobody was told of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.evaluate.learning import Learning, known_tasks, run
from modelfleet_lab.outcomes import Recorded

CODE = (
    'def {name}(items: list) -> list:\n    """Return {name} of items.\n    >>> {name}([{n}])\n    [{n}]"""\n'
)
CHAT = "hi, what could i tell my friend number {n} about {name}? we have not met in a while"
PROSE = "Write a short story about {name} and the sea. Make it warm, and end with {n} surprises."
SUMS = "Ann has {n} apples and buys 12 more for 3 dollars each. How many does {name} get of them?"


def recorded(n: int = 800) -> Recorded:
    """Four kinds of requests; the one model is right on two of them, the other on the others."""
    rng = np.random.default_rng(3)
    kinds = {"code": CODE, "chat": CHAT, "prose": PROSE, "sums": SUMS}
    tasks = [list(kinds)[k % 4] for k in range(n)]
    prompts = [kinds[task].format(name=f"thing{k}", n=k) for k, task in enumerate(tasks)]
    known = known_tasks(tasks, 0)
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


def replayed(**choices: object) -> Learning:
    return run(recorded(), seed=0, seeds=1, progress=lambda text: None, **choices)  # type: ignore[arg-type]


def test_half_of_the_tasks_are_known_and_the_seed_says_which() -> None:
    tasks = [f"task{number}" for number in range(7)]
    assert len(known_tasks(tasks, 0)) == 3
    assert known_tasks(tasks, 0) == known_tasks(list(reversed(tasks)) * 2, 0)
    assert len({known_tasks(tasks, seed) for seed in range(10)}) > 1


def test_feedback_recovers_most_of_what_a_stale_prior_loses_where_kinds_are_plain() -> None:
    document = replayed(requests=3000).json()
    assert document["offline"] - document["stale"] > 0.1  # type: ignore[operator]
    assert document["recovered"] > 0.45  # type: ignore[operator]
    assert json.loads(json.dumps(document)) == document
    assert document["curve"]["requests"] == [500, 1000, 1500, 2000, 2500, 3000]  # type: ignore[index]


def test_without_feedback_nothing_is_learned() -> None:
    document = replayed(requests=500, feedback=0.0).json()
    assert document["learned"] == document["stale"]


def test_a_replay_is_the_same_twice() -> None:
    assert replayed(requests=500).json() == replayed(requests=500).json()


def test_data_of_one_task_is_refused() -> None:
    data = recorded(40)
    with pytest.raises(ValueError, match="fewer than two"):
        run(replace(data, tasks=("code",) * 40), seed=0, progress=lambda text: None)
