"""All policies of an evaluation, played and measured.

In: `Protocol`. Out: `Figures` of each policy by name. Next: `tables` and `result`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from modelfleet_core.estimation.trained import Prediction

from modelfleet_lab.evaluate import costs, estimators, plain, robust, streams
from modelfleet_lab.evaluate.estimators import Known
from modelfleet_lab.evaluate.figures import Figures, measure
from modelfleet_lab.evaluate.protocol import Protocol
from modelfleet_lab.evaluate.sweeps import Sweep, constants, priced
from modelfleet_lab.evaluate.told import Side, Split
from modelfleet_lab.methods import FloatArray


class Study:
    """Everything that estimators are told and say, made once for all sections."""

    def __init__(self, protocol: Protocol, tell: Callable[[str], None]) -> None:
        self.protocol = protocol
        data = protocol.data
        tell("features")
        self.past: Known = estimators.known(data, protocol.past)
        self.test: Known = estimators.known(data, protocol.test)
        tell("our estimator")
        self.trained = estimators.fit(data.models, self.past)
        self.told: Prediction = self.trained.predict(self.test.x)
        tell("our estimator across folds of the past")
        self.past_told: Prediction = estimators.across_folds(data.models, self.past)
        self.cost: FloatArray = self._expected(self.test, self.told)
        self.past_cost: FloatArray = self._expected(self.past, self.past_told)

    def split(self) -> Split:
        """Return past and test as methods see them; made anew at each call."""
        protocol, kappa = self.protocol, self.trained.kappa
        lowered = estimators.pessimistic(self.told, kappa)
        return Split(
            models=protocol.data.models,
            past=Side(
                quality=protocol.past.quality,
                cost=protocol.past.cost,
                told_quality=estimators.pessimistic(self.past_told, kappa),
                told_cost=self.past_cost,
            ),
            test=Side(
                quality=protocol.test.quality,
                cost=protocol.test.cost,
                told_quality=lowered,
                told_cost=self.cost,
                told_low=robust.lowered(lowered, protocol.past, protocol.test, seed=protocol.seed),
            ),
        )

    def _expected(self, asked: Known, told: Prediction) -> FloatArray:
        return costs.expected(
            self.protocol.data,
            self.protocol.past,
            asked.part,
            self.past_told.output_tokens,
            told.output_tokens,
        )


def evaluate(
    study: Study, split: Split, *, resamples: int, tell: Callable[[str], None]
) -> dict[str, Figures]:
    """Return the figures by policy, ours (`default`) first; `tell` is told what is played now."""
    protocol = study.protocol
    past, test = protocol.past, protocol.test
    found: dict[str, Figures] = {}

    def add(name: str, sweep: Sweep, estimated: FloatArray | None = None) -> None:
        tell(f"policy {name}")
        policy = sweep.played(test.quality, test.cost)
        found[name] = measure(protocol, policy, estimated=estimated, resamples=resamples)

    def by_price(name: str, quality: FloatArray) -> None:
        add(name, priced(quality, study.cost), quality)

    told, kappa = study.told, study.trained.kappa
    lowered = estimators.pessimistic(told, kappa)
    add("default", priced(lowered, study.cost), told.quality)
    add("hull", constants(test.size, len(protocol.data.models)))
    labelled = any(test.tasks) and any(past.tasks)
    if labelled:
        by_price("task_mean", plain.task_means(past, test, past.quality))
    by_price("knn_5", plain.nearest(study.past, study.test, 5))
    by_price("knn_40", plain.nearest(study.past, study.test, 40))
    by_price("ridge", plain.ridge(study.past, study.test, study.past_cost))
    if labelled:
        named = study.trained.predict(study.test.x, study.test.labels)
        add("default_task", priced(estimators.pessimistic(named, kappa), study.cost), named.quality)
    for doubt in (0, 1):
        doubted = estimators.pessimistic(told, float(doubt))
        add(f"default_kappa_{doubt}", priced(doubted, study.cost), told.quality)
    for name, policy in streams.play(split, seed=protocol.seed, tell=tell).items():
        found[name] = measure(protocol, policy, estimated=None, resamples=resamples)
    # It knows the outcomes, and which queries nobody answers well enough for the money.
    unanswered = np.zeros((test.size, 1))
    oracle = priced(np.hstack((test.quality, unanswered)), np.hstack((test.cost, unanswered)))
    add("oracle", Sweep(np.where(oracle.choice < test.quality.shape[1], oracle.choice, -1).astype(np.int16)))
    return found
