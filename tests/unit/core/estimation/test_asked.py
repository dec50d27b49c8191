"""A trained estimator says of one request what it says of the same one among many."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.asked import TrainedEstimator
from modelfleet_core.estimation.features import features
from modelfleet_core.estimation.forecast import ForecastError, Question
from modelfleet_core.estimation.profile import profile
from modelfleet_core.estimation.training import train
from modelfleet_core.values import TaskName
from support.fleets import fleet
from support.training import MODELS, made

TEXTS = (
    "",
    "Compute 12 + 7 * 12 - 7 and give only the number.",
    "def f_3(x):\n    return [x, 4]\nWhat does `f_3(4)` return?",
    "Which of these trees keeps its leaves in winter, and why do the others lose them? " * 30,
)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("task", [None, TaskName("sum"), TaskName("unheard of")])
@pytest.mark.parametrize("text", TEXTS, ids=("empty", "sum", "code", "other"))
def test_one_request_is_estimated_as_among_many(text: str, task: TaskName | None, named: bool) -> None:
    trained = train(MODELS, lambda: [made(300).batch(named=named)])
    x = features(text)
    among_many = trained.predict(np.stack((x, x)), (None, task))
    question = Question(profile((text,), task=task, asked_output_tokens=None, max_output_tokens=9), task, x)
    alone = TrainedEstimator(trained).forecast(question, fleet())
    for name in ("quality", "variance", "samples", "output_tokens"):
        assert getattr(alone, name) == pytest.approx(getattr(among_many, name)[1].tolist(), rel=1e-12)
    assert alone.confidence == pytest.approx(float(among_many.confidence[1]), rel=1e-12)


def test_a_request_whose_text_was_not_looked_at_is_refused() -> None:
    trained = train(MODELS, lambda: [made(300).batch()])
    question = Question(profile(("",), task=None, asked_output_tokens=None, max_output_tokens=9))
    with pytest.raises(ForecastError, match="not looked at"):
        TrainedEstimator(trained).forecast(question, fleet())
