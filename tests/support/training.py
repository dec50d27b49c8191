"""Made-up outcomes to train on: sums, poems and code, of which models are good at different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.training import Batch, fold_of
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

MODELS = tuple(ModelName(name) for name in ("clerk-1", "clerk-2", "poet", "coder"))
FORMS = {
    TaskName("sum"): "Compute {0} + {1} * {0} - {1} and give only the number.",
    TaskName("poem"): "Write a short poem about the sea, autumn leaves and friend {0} of my {1} friends.",
    TaskName("code"): "def f_{0}(x):\n    return [x, {1}]\nWhat does `f_{0}({1})` return?",
}
QUALITY = np.array([[0.9, 0.85, 0.3, 0.6], [0.3, 0.25, 0.9, 0.2], [0.4, 0.45, 0.2, 0.9]])
TOKENS = np.array([[20.0, 30.0, 10.0, 40.0], [200.0, 300.0, 100.0, 400.0], [50.0, 60.0, 70.0, 80.0]])


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    texts: tuple[str, ...]
    tasks: tuple[TaskName, ...]
    quality: FloatArray
    output_tokens: FloatArray

    def batch(self, rows: Sequence[int] | None = None, *, named: bool = True, graded: bool = False) -> Batch:
        """Return some rows, all where None; `graded`: scores between 0 and 1 in place of right and wrong."""
        chosen = list(range(len(self.texts)) if rows is None else rows)
        texts = [self.texts[k] for k in chosen]
        quality = self.quality[chosen]
        return Batch(
            x=feature_matrix(texts),
            task=tuple(self.tasks[k] if named else None for k in chosen),
            quality=0.25 + 0.5 * quality if graded else quality,
            output_tokens=self.output_tokens[chosen],
            fold=np.array([fold_of(text) for text in texts], dtype=np.int64),
        )


def made(rows: int, *, seed: int = 1, answers: int | None = None) -> Made:
    """Return `rows` queries of three tasks in turn; `answers` of each are known, all where None."""
    rng = np.random.default_rng(seed)
    names = tuple(FORMS)
    tasks = tuple(names[k % 3] for k in range(rows))
    texts = tuple(FORMS[task].format(*rng.integers(1, 9999, 2).tolist()) for task in tasks)
    kind = np.array([names.index(task) for task in tasks])
    quality = (rng.random((rows, len(MODELS))) < QUALITY[kind]).astype(np.float64)
    tokens = np.round(TOKENS[kind] * np.exp(0.2 * rng.standard_normal(quality.shape)))
    if answers is not None:
        rank = np.argsort(np.argsort(rng.random(quality.shape), axis=1), axis=1)
        quality[rank >= answers] = np.nan
        tokens[rank >= answers] = np.nan
    return Made(texts, tasks, quality, tokens)
