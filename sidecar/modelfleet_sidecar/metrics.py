"""What the sidecar counts: each metric's name, help, labels and buckets, on a registry of its own.

In: nothing. Out: `Metrics`. Next: `telemetry`, which says when each of them changes and what labels mean.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from modelfleet_sidecar.tallies import Counts, Spreads

STAGES = ("assign", "http", "grpc", "judge")
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
DELAYS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)
SOLVES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Metrics:
    """All metrics of one sidecar, by name; each label's words are in `telemetry.LABELS`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "modelfleet_sidecar_"
        self.requests = Counts(
            f"{name}requests",
            "Requests to be forwarded, by how they ended.",
            ["model", "tier", "outcome"],
            registry,
        )
        self.retries = Counter(
            f"{name}retries",
            "Attempts that failed before the first content of an answer and were followed by another.",
            ["reason"],
            registry=registry,
        )
        self.withheld = Counter(
            f"{name}retries_withheld",
            "Failures that no other attempt followed because a fifth of the requests had been tried again "
            "already.",
            ["reason"],
            registry=registry,
        )
        self.cut_streams = Counter(
            f"{name}cut_streams",
            "Streams that a model server broke after their first content; their callers got an error event.",
            ["model"],
            registry=registry,
        )
        self.seconds = Spreads(
            f"{name}request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ["model"],
            registry,
            bounds=LATENCIES,
        )
        self.waited = Spreads(
            f"{name}wait_seconds",
            "Seconds that a request waited in the batching window and the queue.",
            ["tier"],
            registry,
            bounds=LATENCIES,
        )
        self.decisions = Counts(
            f"{name}decisions",
            "Decisions, by model, variant and reason.",
            ["model", "variant", "reason"],
            registry,
        )
        self.ruled = Counter(
            f"{name}ruled_decisions",
            "Decisions on requests that a rule of the policy matched, by rule.",
            ["rule"],
            registry=registry,
        )
        self.refusals = Counter(
            f"{name}refusals", "Requests that got no decision, by reason.", ["reason"], registry=registry
        )
        self.deciding = Spreads(
            f"{name}decide_seconds",
            "Seconds from a request's arrival to its decision, less those in which nothing was free for it.",
            [],
            registry,
            bounds=DELAYS,
        )
        self.loop_lag = Histogram(
            f"{name}loop_lag_seconds",
            "By how much the event loop was late with a timer, fifty times a second.",
            buckets=DELAYS,
            registry=registry,
        )
        self.batches = Counts(
            f"{name}batches", "Solved batches, by how the solver ended.", ["termination"], registry
        )
        self.batch_size = Spreads(
            f"{name}batch_size",
            "Requests in one batch.",
            [],
            registry,
            bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024),
        )
        self.solve_seconds = Spreads(
            f"{name}solve_seconds", "Seconds to assign one batch.", [], registry, bounds=SOLVES
        )
        self.gap = Spreads(
            f"{name}gap",
            "Proven distance of an assignment from the best conceivable, as a part of quality from 0 to 1.",
            [],
            registry,
            bounds=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        )
        self.queue = Gauge(f"{name}queue_length", "Requests that wait for a place.", registry=registry)
        self.cost = Counts(f"{name}cost_usd", "USD booked for answers, by model.", ["model"], registry)
        self.expired = Counter(
            f"{name}expired_decisions", "Routed decisions that nobody settled in time.", registry=registry
        )
        self.excess = Counter(
            f"{name}excess_usd",
            "USD that servers billed above the bound that was reserved; must stay 0.",
            registry=registry,
        )
        self.above_bound = Counter(
            f"{name}prompts_above_bound",
            "Answers whose prompt the server counted above the bound that was reserved, by model: its "
            "`templateTokens`, or `imageTokens`, are too few.",
            ["model"],
            registry=registry,
        )
        self.keys = Gauge(
            f"{name}keys_missing",
            "API keys that the fleet names and this pod does not have; their models are not used.",
            registry=registry,
        )
        self.draining = Gauge(
            f"{name}draining", "1 while the sidecar shuts down and takes no new request.", registry=registry
        )
        self.slots = Gauge(f"{name}slots", "Leased slots, by state.", ["state"], registry=registry)
        self.money = Gauge(f"{name}free_money_usd", "USD that can be reserved now.", registry=registry)
        self.live = Gauge(f"{name}lease_live", "1 while the lease gives slots, else 0.", registry=registry)
        self.feedback = Counter(
            f"{name}feedback",
            "Decisions that got feedback, once each, by the model that answered and how it was said.",
            ["model", "source"],
            registry=registry,
        )
        self.score = Counter(
            f"{name}feedback_score",
            "Sum of the scores of feedback, each from 0 to 1, by the model that answered.",
            ["model"],
            registry=registry,
        )
        self.repeated = Counter(
            f"{name}repeated_requests",
            "Requests that were asked again within minutes of their answer, by the model that had answered.",
            ["model"],
            registry=registry,
        )
        self.truncated = Counter(
            f"{name}truncated_answers",
            "Answers that the policy's limit of output tokens cut, by model.",
            ["model"],
            registry=registry,
        )
        self.low_confidence = Counter(
            f"{name}low_confidence",
            "Requests whose estimates were not trusted, so that a rule or the default model decided.",
            registry=registry,
        )
        self.estimator = Gauge(
            f"{name}estimator_info",
            "1 for what estimates rest on.",
            ["version", "learned"],
            registry=registry,
        )
        self.experience = Gauge(
            f"{name}experience_cells",
            "Kinds of answers (task, rule, model and group) that are counted for the operator.",
            registry=registry,
        )
        self.documents = Counter(
            f"{name}documents_refused",
            "Estimators, what was learned and config files that came and could not be used.",
            ["kind"],
            registry=registry,
        )
        for kind in ("estimator", "learned", "manifests"):
            self.documents.labels(kind)
        self.estimator_failures = Counter(
            f"{name}estimator_failures",
            "Requests for which an estimator failed and the next one, or the manifest's priors, counted.",
            registry=registry,
        )
        self.judged = Counter(
            f"{name}judged_answers",
            "Answers that were chosen for the policy's judge, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self.judge_cost = Counter(
            f"{name}judge_cost_usd", "USD booked on the account of the policy's judge.", registry=registry
        )
        self.judge_queue = Gauge(
            f"{name}judge_queue", "Answers that wait for the policy's judge.", registry=registry
        )
        self.breaker = Gauge(
            f"{name}breaker_state",
            "What a variant's breaker lets through: 0 everything (closed), 1 a probe at a time (half open), "
            "2 nothing (open).",
            ["model", "variant"],
            registry=registry,
        )
        self.concurrency = Gauge(
            f"{name}concurrency_limit",
            "Leased slots of a variant that are used at a time: fewer where answers became slow or status 429"
            " came.",
            ["model", "variant"],
            registry=registry,
        )
        self.bugs = Counter(
            f"{name}internal_errors",
            "Faults of the sidecar itself, by where they happened.",
            ["stage"],
            registry=registry,
        )
        for stage in STAGES:
            self.bugs.labels(stage)  # an increase from nothing to 1 is none to Prometheus
        self.responses = Counts(
            f"{name}responses",
            "Answers to callers, by protocol and status.",
            ["api", "status"],
            registry,
        )
