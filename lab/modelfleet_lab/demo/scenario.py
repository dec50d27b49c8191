"""What the demo runs: models, GPUs, money, and which question comes when.

In: a seed, and where given recorded outcomes and a trace. Out: `Scenario`. Next: `manifests` declares it to
the operator, `replay` sends its requests, `baselines` route the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelfleet_lab.arrivals import ATTRIBUTION, Arrival, attribution, read_trace, scaled, shipped_arrivals
from modelfleet_lab.model_server import LatencyProfile
from modelfleet_lab.questions import Question, QuestionSet
from modelfleet_lab.questions.generated import make_questions
from modelfleet_lab.questions.recorded import recorded_questions

PAST_SEED = 7919
"""Added to the seed for past traffic, from which manifests have qualities and baselines their prices."""
SHARES = (0.55, 0.3, 0.15)
"""How the requests spread over the applications."""
THIN = 3
"""One of so many arrivals is kept, so that a run of seconds spans as many bursts as minutes would."""
GPUS = 6
DEADLINE = 4.0
"""Seconds within which a request must end."""
SLACK = 4.0
"""Seconds between the last arrival and the end of the budget's period: every request falls into it."""
WARM_UP = 10.0
"""Seconds of past traffic before the product's run, in which it plans replicas and learns lengths."""


@dataclass(frozen=True, slots=True)
class LabModel:
    """One simulated model: on GPUs of the cluster, or (0 GPUs) behind an external endpoint."""

    name: str
    gpus: int
    concurrency: int
    latency: LatencyProfile
    input_price: str
    """USD per million tokens, as the output price."""
    output_price: str

    @property
    def external(self) -> bool:
        return self.gpus == 0

    def service_time(self, output_tokens: float) -> float:
        """Return the seconds that a request holds a slot when all slots are in use."""
        first = self.latency.first_token(self.concurrency, 0)
        return first + self.latency.next_token(self.concurrency) * output_tokens

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return USD."""
        return (float(self.input_price) * input_tokens + float(self.output_price) * output_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the replay."""

    at: float
    question: Question
    application: int
    """Which of the applications sends it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    models: tuple[LabModel, ...]
    gpus: int
    limit: float
    """USD that warm-up and run may spend together; the baselines get what the warm-up left."""
    past_requests: tuple[Request, ...]
    """A run of past traffic, as long as the one to come."""
    requests: tuple[Request, ...]
    asked: QuestionSet
    past: QuestionSet
    """Other questions of the same kind, from which qualities and lengths are known beforehand."""
    max_output_tokens: int
    """What each caller asks at most, and the policy allows."""
    duration: float
    seed: int
    sources: tuple[str, ...]
    """What is simulated and whose figures are used, for the report."""

    @property
    def warm_up(self) -> tuple[Request, ...]:
        """Past requests that the product gets before its run; they count in no figure of the table."""
        return tuple(request for request in self.past_requests if request.at < WARM_UP)

    def model(self, name: str) -> LabModel:
        return next(model for model in self.models if model.name == name)


GENERATED_MODELS = (
    LabModel("swift-3b", 1, 6, LatencyProfile(ttft=60, per_token=0.6), "0.05", "0.10"),
    LabModel("coder-8b", 1, 4, LatencyProfile(ttft=90, per_token=0.9), "0.15", "0.30"),
    LabModel("sage-32b", 2, 4, LatencyProfile(ttft=150, per_token=1.4), "0.60", "1.20"),
    LabModel("frontier", 0, 4, LatencyProfile(ttft=250, per_token=2.0), "2.50", "10.00"),
)
SKILLS: Mapping[str, Mapping[str, float]] = {
    "swift-3b": {"math": 0.30, "code": 0.25, "logic": 0.35, "extract": 0.85},
    "coder-8b": {"math": 0.45, "code": 0.75, "logic": 0.40, "extract": 0.75},
    "sage-32b": {"math": 0.75, "code": 0.65, "logic": 0.75, "extract": 0.95},
    "frontier": {"math": 1.00, "code": 0.95, "logic": 1.00, "extract": 1.00},
}
GENERATED_COST_PER_REQUEST = 0.00035
"""USD: about a fifth of what the strongest model takes."""

RECORDED_MODELS = (
    LabModel("Meta-Llama-3.1-8B-Instruct", 1, 6, LatencyProfile(ttft=60, per_token=0.5), "0.18", "0.18"),
    LabModel("gemma-2-27b-it", 1, 4, LatencyProfile(ttft=90, per_token=1.6), "0.80", "0.80"),
    LabModel("Meta-Llama-3.1-70B-Instruct", 2, 4, LatencyProfile(ttft=150, per_token=1.5), "0.88", "0.88"),
    LabModel("claude-3-5-sonnet-20241022", 0, 4, LatencyProfile(ttft=250, per_token=3.0), "3.00", "15.00"),
)
RECORDED_COST_PER_REQUEST = 0.00045


def make_scenario(
    *, seed: int, duration: float, rate: float, data: Path | None = None, trace: Path | None = None
) -> Scenario:
    """Return the demo's scenario; raise ValueError when `data` or `trace` does not hold enough."""
    count = max(1, round(duration * rate))
    figures = read_trace(trace) if trace is not None else shipped_arrivals()
    arrivals = scaled(figures, count=count, duration=duration, seed=seed, thin=THIN)
    past_arrivals = scaled(figures, count=count, duration=duration, seed=seed + PAST_SEED, thin=THIN)
    if data is None:
        models, cost, limit = GENERATED_MODELS, GENERATED_COST_PER_REQUEST, 512
        past = make_questions(past_arrivals, SKILLS, seed=seed + PAST_SEED)
        asked = make_questions(arrivals, SKILLS, seed=seed)
    else:
        models, cost, limit = RECORDED_MODELS, RECORDED_COST_PER_REQUEST, 1024
        names = [model.name for model in models]
        past, asked = recorded_questions(data, names, ask=count, seed=seed)
    trace_source = ATTRIBUTION if trace is None else attribution(trace)
    warming = sum(arrival.at < WARM_UP for arrival in past_arrivals)
    return Scenario(
        models=models,
        gpus=GPUS,
        limit=round(cost * (count + warming), 6),
        past_requests=_requests(past_arrivals, past.questions[:count], seed + PAST_SEED),
        requests=_requests(arrivals, asked.questions, seed),
        asked=asked,
        past=past,
        max_output_tokens=limit,
        duration=duration,
        seed=seed,
        sources=(f"Questions: {asked.source}.", trace_source),
    )


def _requests(arrivals: Sequence[Arrival], questions: Sequence[Question], seed: int) -> tuple[Request, ...]:
    """Spread the requests over the applications by `SHARES`, the same way for every policy."""
    rng = random.Random(f"applications-{seed}")
    applications = rng.choices(range(len(SHARES)), SHARES, k=len(arrivals))
    return tuple(
        Request(arrival.at, question, application)
        for arrival, question, application in zip(arrivals, questions, applications, strict=True)
    )
