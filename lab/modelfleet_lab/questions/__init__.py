"""Questions with checkable answers, and what each model answers to them.

In: a seed, or a folder of recorded outcomes. Out: `QuestionSet`: the questions and, for each model, its
response to each. Next: `answers_file` gives them to the simulated model servers; `demo.replay` asks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet_lab.model_server import Answer, answer_line

ANSWER_MARK = "Answer:"


@dataclass(frozen=True, slots=True)
class Question:
    question_id: str
    task: str
    prompt: str
    reference: str
    """The right answer, as the checker compares it."""
    difficulty: float
    """Latent difficulty, 0 to 1; routers never see it."""


@dataclass(frozen=True, slots=True)
class Response:
    """What one model answers to one question."""

    text: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """`responses[model][i]` is the model's response to `questions[i]`."""

    questions: tuple[Question, ...]
    responses: Mapping[str, tuple[Response, ...]]
    source: str
    """What the questions are and whose, for the report."""

    def quality(self, model: str, task: str | None = None) -> float:
        """Return the share of right answers of `model`, over all questions or those of `task`."""
        graded = [
            grade(question, response.text)
            for question, response in zip(self.questions, self.responses[model], strict=True)
            if task is None or question.task == task
        ]
        return sum(graded) / len(graded) if graded else 0.0

    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({question.task for question in self.questions}))


def grade(question: Question, text: str) -> bool:
    """Return whether the last line `Answer: ...` of `text` gives the reference, spaces and case aside."""
    _, mark, given = text.rpartition(ANSWER_MARK)
    return bool(mark) and _plain(given) == _plain(question.reference)


def _plain(text: str) -> str:
    return "".join(text.split()).strip(".").casefold()


def answers_file(questions: Sequence[Question], responses: Sequence[Response]) -> str:
    """Return the text of a model server's answers file, each answer graded by its checker."""
    return "".join(
        answer_line(
            question.prompt,
            Answer(
                response.text,
                response.output_tokens,
                question=question.question_id,
                correct=grade(question, response.text),
            ),
        )
        + "\n"
        for question, response in zip(questions, responses, strict=True)
    )
