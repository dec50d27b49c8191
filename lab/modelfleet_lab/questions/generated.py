"""Generated questions in four tasks, with a known latent difficulty.

In: a seed, the arrivals and each model's skills. Out: `QuestionSet`. A harder question has more steps, and so
a longer text; a model is right as often as `chance` says. Next: `demo`.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

from modelfleet_lab.arrivals import Arrival
from modelfleet_lab.questions import ANSWER_MARK, Question, QuestionSet, Response

SLOPE = 9.0
"""How sharply a model fails beyond its skill."""
GUESS = 0.04
"""Chance to be right on a question far beyond the model."""
SOURCE = "generated questions (arithmetic, code tracing, ordering, extraction) with checked answers"

_NAMES = ("Ada", "Bo", "Cleo", "Dev", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jun", "Kai", "Lea", "Max", "Noa")
_GOODS = ("apples", "bolts", "books", "candles", "cards", "coins", "lamps", "maps", "pens", "shells")
_CITIES = ("Lima", "Oslo", "Accra", "Kyoto", "Porto", "Quito", "Riga", "Tunis", "Turin", "Perth")


def make_questions(
    arrivals: Sequence[Arrival], skills: Mapping[str, Mapping[str, float]], *, seed: int
) -> QuestionSet:
    """Return a question for each arrival and each model's response; `skills` is model -> task -> skill.

    Arrivals at the code service ask code; the others ask one of the other tasks. An arrival's output tokens
    set the length of the answers.
    """
    rng = random.Random(f"questions-{seed}")
    questions: list[Question] = []
    seen: set[str] = set()
    for index, arrival in enumerate(arrivals):
        task = "code" if arrival.code else rng.choice(("math", "math", "logic", "extract"))
        difficulty = rng.betavariate(1.6, 1.9)
        prompt, reference = _TASKS[task](rng, difficulty)
        while prompt in seen:
            prompt, reference = _TASKS[task](rng, difficulty)
        seen.add(prompt)
        questions.append(Question(f"{seed}-{index:05d}", task, prompt, reference, difficulty))
    responses = {
        model: tuple(
            _respond(random.Random(f"{seed}-{model}-{question.question_id}"), question, arrival, by_task)
            for question, arrival in zip(questions, arrivals, strict=True)
        )
        for model, by_task in skills.items()
    }
    return QuestionSet(tuple(questions), responses, SOURCE)


def chance(skill: float, difficulty: float) -> float:
    """Return the probability that a model of `skill` answers a question of `difficulty` right."""
    return GUESS + (1.0 - GUESS) / (1.0 + math.exp(-SLOPE * (skill - difficulty)))


def _respond(
    rng: random.Random, question: Question, arrival: Arrival, by_task: Mapping[str, float]
) -> Response:
    right = rng.random() < chance(by_task[question.task], question.difficulty)
    given = question.reference if right else _wrong(rng, question.reference)
    tokens = 150 + 0.6 * min(250, arrival.output_tokens) + 120 * question.difficulty
    tokens = round(tokens * rng.uniform(0.85, 1.15))
    return Response(
        f"Working through the {question.task} question step by step.\n{ANSWER_MARK} {given}", tokens
    )


def _wrong(rng: random.Random, reference: str) -> str:
    if reference.lstrip("-").isdigit():
        return str(int(reference) + rng.choice((-10, -2, -1, 1, 2, 10)))
    return rng.choice([name for name in _NAMES if name != reference]) + "?"


def _steps(difficulty: float) -> int:
    return 1 + round(9 * difficulty)


def _math(rng: random.Random, difficulty: float) -> tuple[str, str]:
    name, goods = rng.choice(_NAMES), rng.choice(_GOODS)
    count = rng.randint(5, 60)
    text = [f"{name} has {count} {goods}."]
    for _ in range(_steps(difficulty)):
        match rng.randrange(4):
            case 0:
                change = rng.randint(2, 90)
                text.append(f"{name} buys {change} more.")
                count += change
            case 1:
                change = rng.randint(1, max(1, count // 2))
                text.append(f"{name} gives {change} to a friend.")
                count -= change
            case 2:
                factor = rng.randint(2, 4)
                text.append(f"A shop then brings the number to {factor} times what it was.")
                count *= factor
            case _:
                text.append("Half of them, rounded down, are sold.")
                count //= 2
    text.append(f"How many {goods} does {name} have in the end? End with '{ANSWER_MARK} <number>'.")
    return " ".join(text), str(count)


def _code(rng: random.Random, difficulty: float) -> tuple[str, str]:
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    lines = [f"a, b = {a}, {b}"]
    for _ in range(_steps(difficulty)):
        k = rng.randint(2, 9)
        match rng.randrange(4):
            case 0:
                lines.append(f"a = a + b * {k}")
                a += b * k
            case 1:
                lines.append("a, b = b, a")
                a, b = b, a
            case 2:
                lines.append(f"for i in range({k}):\n    b = b + i")
                b += k * (k - 1) // 2
            case _:
                lines.append(f"a = a % {k + 5} + b // {k}")
                a = a % (k + 5) + b // k
    program = "\n".join(lines)
    return (
        f"What does this program print?\n```python\n{program}\nprint(a + b)\n```\n"
        f"End with '{ANSWER_MARK} <number>'."
    ), str(a + b)


def _logic(rng: random.Random, difficulty: float) -> tuple[str, str]:
    people = rng.sample(_NAMES, 3 + round(7 * difficulty))
    clues = [f"{left} stands directly in front of {right}." for left, right in itertools.pairwise(people)]
    rng.shuffle(clues)
    place = rng.randrange(len(people))
    return (
        f"{len(people)} people stand in a queue. {' '.join(clues)} "
        f"Who is number {place + 1} from the front? End with '{ANSWER_MARK} <name>'."
    ), people[place]


def _extract(rng: random.Random, difficulty: float) -> tuple[str, str]:
    rows = [
        (name, rng.choice(_CITIES), rng.randint(18, 90))
        for name in rng.sample(_NAMES, 3 + round(9 * difficulty))
    ]
    name, _, age = rng.choice(rows)
    table = "; ".join(f"name={n}, city={c}, age={a}" for n, c, a in rows)
    return (
        f"Records: {table}. Return the age of {name} as it stands in the records, nothing else. "
        f"End with '{ANSWER_MARK} <number>'."
    ), str(age)


_TASKS: Mapping[str, Callable[[random.Random, float], tuple[str, str]]] = {
    "math": _math,
    "code": _code,
    "logic": _logic,
    "extract": _extract,
}
TASKS = tuple(_TASKS)
