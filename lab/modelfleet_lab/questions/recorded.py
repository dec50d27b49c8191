"""Real questions with the recorded outcome of each model.

In: a folder with `queries.parquet`, `outcomes.parquet` and `models.csv` (as of ZeroEval), or one that has it
as `zeroeval`. Out: two `QuestionSet`s that share no question: one to state the models' qualities in the
manifests, one to ask. Next: `demo`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from modelfleet_lab.questions import ANSWER_MARK, Question, QuestionSet, Response

SOURCE = (
    "real questions (gsm8k, MATH level 5, CRUXEval output) with recorded outcomes: ZeroEval, Apache-2.0, "
    "WildEval/ZeroEval @ 8c1485e; its token counts are estimates of one tokenizer"
)


def recorded_questions(
    data: Path, models: Sequence[str], *, ask: int, seed: int
) -> tuple[QuestionSet, QuestionSet]:
    """Return (past, asked): `asked` holds `ask` questions, `past` all others, at least a third of the data.

    Raise ValueError when a file or model is missing, or `ask` is too many.
    """
    folder = data / "zeroeval" if (data / "zeroeval").is_dir() else data
    for name in ("queries.parquet", "outcomes.parquet", "models.csv"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; --data names a folder that holds zeroeval's files")
    _check_models(folder, models)
    from modelfleet_lab.tables import read_columns  # Heavy, and needed for recorded questions alone.

    fields = read_columns(folder / "queries.parquet", ("query_id", "task", "prompt", "ref_answer"))
    queries = [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    outcomes = read_columns(folder / "outcomes.parquet", ("query_id", "model", "quality", "output_tokens"))
    by_model: dict[str, dict[str, tuple[float, int]]] = {model: {} for model in models}
    for query_id, model, quality, tokens in zip(*outcomes.values(), strict=True):
        if model in by_model:
            by_model[model][query_id] = (quality, tokens)
    prompts: set[str] = set()
    kept = []
    for row in queries:
        if row["prompt"] not in prompts and all(row["query_id"] in rows for rows in by_model.values()):
            prompts.add(row["prompt"])
            kept.append(row)
    if ask > len(kept) * 2 // 3:
        raise ValueError(f"{ask} questions asked of {len(kept)}; lower the rate or duration")
    random.Random(f"recorded-{seed}").shuffle(kept)

    def build(rows: Sequence[dict[str, str]]) -> QuestionSet:
        questions = tuple(
            Question(row["query_id"], row["task"], row["prompt"], row["ref_answer"].lstrip("# "), 0.0)
            for row in rows
        )
        responses = {
            model: tuple(_respond(question, *outcome[question.question_id]) for question in questions)
            for model, outcome in by_model.items()
        }
        return QuestionSet(questions, responses, SOURCE)

    return build(kept[ask:]), build(kept[:ask])


def _check_models(folder: Path, models: Sequence[str]) -> None:
    from modelfleet_lab.outcomes.folder import find  # Heavy, and needed for recorded questions alone.

    found = find(folder)
    for model in models:
        if model in found.left_out:
            why = found.left_out[model]
            raise ValueError(f"{folder / 'models.csv'}: model {model!r} is flagged ({why}); choose another")
        if model not in found.models:
            known = ", ".join(sorted(found.models))
            raise ValueError(f"{folder / 'models.csv'}: model {model!r} is missing; known are {known}")


def _respond(question: Question, quality: float, tokens: int) -> Response:
    """Return a text that is graded as the record says; the model's own text is not in the data."""
    given = question.reference if quality >= 0.5 else "(recorded as wrong)"
    return Response(f"{ANSWER_MARK} {given}", max(1, tokens))
