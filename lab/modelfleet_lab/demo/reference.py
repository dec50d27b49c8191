"""What a random mix of constant models would reach at each cost: the line that a router must stay above.

In: the scenario's questions and every model's answer to each. Out: the best mixes' quality by cost. Next:
`report` sets it beside the measured policies. Computed, not run: slots and deadlines do not limit it, and its
shares are the best in hindsight, so it is a hard reference where slots bind.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet_lab.demo.scenario import Scenario
from modelfleet_lab.model_server.answers import input_tokens
from modelfleet_lab.questions import grade


@dataclass(frozen=True, slots=True)
class Mix:
    """A corner of the line: every request to one model, or (empty name) none answered."""

    model: str
    cost_usd: float
    quality: float
    """Right answers over all requests."""


def constant_models(scenario: Scenario) -> tuple[Mix, ...]:
    """Return what each model would cost and get right if it answered every request of the run."""
    asked = {request.question.question_id for request in scenario.requests}
    mixes = []
    for model in scenario.models:
        cost, right = 0.0, 0
        for question, response in zip(
            scenario.asked.questions, scenario.asked.responses[model.name], strict=True
        ):
            if question.question_id in asked:
                tokens = min(response.output_tokens, scenario.max_output_tokens)
                cost += model.cost(input_tokens([question.prompt]), tokens)
                # As at the servers: an answer cut at the token limit is wrong.
                right += tokens == response.output_tokens and grade(question, response.text)
        mixes.append(Mix(model.name, cost, right / len(scenario.requests)))
    return tuple(mixes)


def best_mixes(models: Sequence[Mix]) -> tuple[Mix, ...]:
    """Return the corners of the upper concave hull over cost, from no answers up to the best model."""
    hull = [Mix("", 0.0, 0.0)]
    for mix in sorted(models, key=lambda mix: (mix.cost_usd, mix.quality)):
        if mix.quality <= hull[-1].quality:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], mix):
            hull.pop()
        hull.append(mix)
    return tuple(hull)


def quality_at(corners: Sequence[Mix], cost_usd: float) -> float:
    """Return the quality of the best mix that costs `cost_usd`."""
    for low, high in itertools.pairwise(corners):
        if cost_usd < high.cost_usd:
            return low.quality + _slope(low, high) * (cost_usd - low.cost_usd)
    return corners[-1].quality


def _slope(low: Mix, high: Mix) -> float:
    """Return quality per USD from one corner to the next; free quality is steeper than any paid one."""
    rise = high.cost_usd - low.cost_usd
    return (high.quality - low.quality) / rise if rise > 0 else float("inf")
