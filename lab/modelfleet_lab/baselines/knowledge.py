"""What is known before the run, from past traffic: the same for the product and for every baseline.

In: `Scenario.past`. Out: each model's quality and length of answers by task; the best single model; the
baselines' replicas. Next: `demo.manifests` states the qualities, `demo.rivals` builds the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet_lab.demo.scenario import LabModel, Scenario
from modelfleet_lab.model_server.answers import input_tokens


@dataclass(frozen=True, slots=True)
class Expectation:
    """Means of one model over past questions of one task."""

    quality: float
    output_tokens: float


class Knowledge:
    """Means of past traffic by model and task."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._budget = (
            scenario.limit * len(scenario.requests) / (len(scenario.requests) + len(scenario.warm_up))
        )
        past = scenario.past
        self._means: dict[tuple[str, str], Expectation] = {}
        for model in scenario.models:
            for task in past.tasks():
                tokens = [
                    response.output_tokens
                    for question, response in zip(past.questions, past.responses[model.name], strict=True)
                    if question.task == task
                ]
                mean = sum(tokens) / len(tokens)
                self._means[model.name, task] = Expectation(past.quality(model.name, task), mean)

    def expectation(self, model: LabModel, task: str) -> Expectation:
        return self._means[model.name, task]

    def best_single(self) -> str:
        """Return the model that would answer most past requests right, alone with all GPUs and the whole
        budget.
        """
        return max(self._scenario.models, key=self._alone).name

    def _alone(self, model: LabModel) -> float:
        """Return the expected quality over all requests when `model` answers what money and slots allow."""
        questions = [request.question for request in self._scenario.past_requests]
        means = [self._means[model.name, question.task] for question in questions]
        cost = sum(
            model.cost(input_tokens([question.prompt]), mean.output_tokens)
            for question, mean in zip(questions, means, strict=True)
        )
        seconds = sum(model.service_time(mean.output_tokens) for mean in means)
        slots = model.concurrency * (1 if model.external else self._scenario.gpus // model.gpus)
        served = min(1.0, self._budget / cost, slots * self._scenario.duration / seconds)
        return served * sum(mean.quality for mean in means) / len(means)


def all_to_one(models: Sequence[LabModel], gpus: int, name: str) -> dict[str, int]:
    """Return the replicas that give every GPU to one model (an external one needs none)."""
    return {
        model.name: 0 if model.name != name else (1 if model.external else gpus // model.gpus)
        for model in models
    }


def equal_split(models: Sequence[LabModel], gpus: int) -> dict[str, int]:
    """Return the replicas that share the GPUs equally among pool models; what is left goes in turn."""
    replicas = {model.name: 1 if model.external else 0 for model in models}
    pooled = [model for model in models if not model.external]
    left = gpus
    while True:
        fits = [model for model in pooled if model.gpus <= left]
        if not fits:
            return replicas
        poorest = min(fits, key=lambda model: replicas[model.name] * model.gpus)
        replicas[poorest.name] += 1
        left -= poorest.gpus
