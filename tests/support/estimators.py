"""Estimators as operators send them: trained on a few made-up texts, or learned from made-up scores."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import numpy as np
from modelfleet_core.estimation import artifact, learned
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.training import Batch, fold_of, train
from modelfleet_core.leasing.messages import Document
from modelfleet_core.values import ModelName, TaskName

SUM = "Compute {0} + {1} * {0} - {1} and give only the number."
POEM = "Write a short poem about the sea, autumn leaves and friend number {0} of my {1} friends."


def document(content: bytes) -> Document:
    return Document(hashlib.sha256(content).hexdigest()[:16], content)


@functools.cache
def poet_and_clerk() -> Document:
    """Return an estimator by which `poet` is right on poems only and `clerk` on sums only."""
    texts = [form.format(number, number * 7 % 100) for number in range(150) for form in (SUM, POEM)]
    tasks = tuple(TaskName(task) for _ in range(150) for task in ("sum", "poem"))
    right = np.array([[0.05, 0.95] if task == "sum" else [0.95, 0.05] for task in tasks])
    tokens = np.array([[40.0, 40.0] if task == "sum" else [200.0, 200.0] for task in tasks])
    models = (ModelName("poet"), ModelName("clerk"))
    folds = np.array([fold_of(text) for text in texts])
    rng = np.random.default_rng(1)
    quality = (rng.random(right.shape) < right).astype(np.float64)
    batch = Batch(feature_matrix(texts), tasks, quality, tokens, folds)
    return document(artifact.encode(train(models, lambda: [batch])))


def learned_of(base_version: str, lift: Mapping[str, float], samples: float = 100.0) -> Document:
    """Return what so many scores taught on a base: each model's quality is by `lift` higher than it says."""
    theta = np.zeros((len(lift) + 1, EMBEDDING))
    theta[:-1, 1:] = np.array(list(lift.values()))[:, np.newaxis]
    covariance = np.broadcast_to(1e-16 * np.eye(EMBEDDING), (len(theta), EMBEDDING, EMBEDDING))
    models = tuple(ModelName(name) for name in lift)
    made = learned.learned(base_version, models, theta, covariance, np.full(len(lift), samples))
    return document(learned.encode(made))
