"""What each model offers each request, by the estimator that the product's sidecars use.

In: the fleet as the manifests declare it, past traffic, requests in order. Out: `Offer`s. Next: the rules
choose. The baselines' estimator has seen the lengths and difficulties of past traffic; the sidecars' starts
without.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.estimate import PriorEstimator
from modelfleet_core.estimation.profile import RequestProfile, profile
from modelfleet_core.values import TaskName

from modelfleet_lab.baselines import Offer
from modelfleet_lab.questions import Question, QuestionSet


class Estimates:
    """Offers to questions, one after the other."""

    def __init__(self, fleet: Fleet, past: QuestionSet, max_tokens: int) -> None:
        self._fleet = fleet
        self._max_tokens = max_tokens
        self._estimator = PriorEstimator()
        for index, question in enumerate(past.questions):
            self._estimator.saw(self._profile(question))
            for responses in past.responses.values():
                self._estimator.answered(TaskName(question.task), responses[index].output_tokens)

    def offers(self, questions: Sequence[Question]) -> list[tuple[Offer, ...]]:
        """Return what each model offers to each of `questions`, in their order."""
        rows = []
        for question in questions:
            seen = self._profile(question)
            self._estimator.saw(seen)
            estimates = self._estimator.estimate(seen, self._fleet)
            rows.append(tuple(Offer(str(e.model), e.quality, e.cost) for e in estimates))
        return rows

    def _profile(self, question: Question) -> RequestProfile:
        return profile(
            [question.prompt],
            task=TaskName(question.task),
            asked_output_tokens=self._max_tokens,
            max_output_tokens=self._max_tokens,
            seen_output_tokens=self._estimator.output_tokens(),
        )
