"""Metrics of the sidecar, on a registry of its own, and the admin port's `/healthz`, `/readyz`, `/metrics`.

In: what router, batcher and APIs saw. Out: Prometheus text. Labels are names from fleet and policy, fixed
words or status codes: nothing that callers can make up.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.breaker import State
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.values import NanoUsd, VariantKey, usd
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.feedback import Feedback
from modelfleet_sidecar.logs import DecisionLines

log = logging.getLogger(__name__)

LABELS = {
    "model": "Name of the model in its fleet; empty: the request got no decision.",
    "variant": "Name of the variant in its model.",
    "tier": "Name of the request's tier in its policy.",
    "rule": "Name of the rule in its policy.",
    "modelfleet_sidecar_requests/outcome": (
        "`Ok`, `Cancelled` (by the caller), `DeadlineExceeded`, or the reason of the caller's error, "
        "such as `UpstreamStatus` or `NoFreeSlot`."
    ),
    "modelfleet_sidecar_decisions/reason": (
        "`BestValue`, `Pinned` (the caller named the model), `OnlyEligible`, `LowConfidence` (estimates were "
        "not trusted), `Explored` (by chance, to learn), `BudgetBinds` (a better one was too dear) or "
        "`SlotsBind` (a better one had no free slot)."
    ),
    "modelfleet_sidecar_refusals/reason": (
        "Reason of the error: `BudgetExhausted`, `NoFreeSlot`, `NoLease`, `DeadlineExceeded`, `Overloaded`, "
        "`Draining` and others."
    ),
    "modelfleet_sidecar_retries/reason": "Reason of the failure that the next attempt follows.",
    "modelfleet_sidecar_retries_withheld/reason": "Reason of the failure.",
    "modelfleet_sidecar_batches/termination": (
        "`Optimal`, `Feasible` (time was up with a certified assignment) or `Fallback` (greedy)."
    ),
    "modelfleet_sidecar_slots/state": "`free` or `in_flight` (a request uses it).",
    "modelfleet_sidecar_internal_errors/stage": "`assign`, `http`, `grpc` or `judge`.",
    "modelfleet_sidecar_judged_answers/outcome": (
        "`Scored`, `Unparsable` (the judge said something else than a number), `NoScore` (a plug-in had "
        "none), `OwnModel` (the judge's own model answered), `NoText`, `QueueFull`, `NoCapacity` (users "
        "needed the slots, or the judge's account was empty), `Failed` or `SwitchedOff`."
    ),
    "modelfleet_sidecar_feedback/source": "`score`, `rating` or `label`.",
    "modelfleet_sidecar_estimator_info/version": (
        "Of the estimator in force; `plugin:` and the name of a plug-in; empty: the manifest's priors."
    ),
    "modelfleet_sidecar_estimator_info/learned": "Version of what was learned; empty: nothing.",
    "modelfleet_sidecar_documents_refused/kind": (
        "`estimator`, `learned` or, without an operator, `manifests` (the config file)."
    ),
    "modelfleet_sidecar_responses/api": "`http` or `grpc`.",
    "modelfleet_sidecar_responses/status": "Status code of that protocol, such as `200` or `OK`.",
}
"""What each label means, for all metrics or for one (`metric/label`)."""
BREAKER_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
STAGES = ("assign", "http", "grpc", "judge")
LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
DELAYS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SOLVES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Telemetry:
    """Counters of one sidecar."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._lines = DecisionLines()
        name = "modelfleet_sidecar_"
        self._requests = Counter(
            f"{name}requests",
            "Requests to be forwarded, by how they ended.",
            ["model", "tier", "outcome"],
            registry=registry,
        )
        self._retries = Counter(
            f"{name}retries",
            "Attempts that failed before the first byte of an answer and were followed by another.",
            ["reason"],
            registry=registry,
        )
        self._withheld = Counter(
            f"{name}retries_withheld",
            "Failures that no other attempt followed because a fifth of the requests had been tried again "
            "already.",
            ["reason"],
            registry=registry,
        )
        self._cut_streams = Counter(
            f"{name}cut_streams",
            "Streams that a model server broke after their first byte; their callers got an error event.",
            ["model"],
            registry=registry,
        )
        self._seconds = Histogram(
            f"{name}request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ["model"],
            buckets=LATENCIES,
            registry=registry,
        )
        self._waited = Histogram(
            f"{name}wait_seconds",
            "Seconds that a request waited in the batching window and the queue.",
            ["tier"],
            buckets=LATENCIES,
            registry=registry,
        )
        self._decisions = Counter(
            f"{name}decisions",
            "Decisions, by model, variant and reason.",
            ["model", "variant", "reason"],
            registry=registry,
        )
        self._ruled = Counter(
            f"{name}ruled_decisions",
            "Decisions on requests that a rule of the policy matched, by rule.",
            ["rule"],
            registry=registry,
        )
        self._refusals = Counter(
            f"{name}refusals", "Requests that got no decision, by reason.", ["reason"], registry=registry
        )
        self._deciding = Histogram(
            f"{name}decide_seconds",
            "Seconds from a request's arrival to its decision, less those in which nothing was free for it.",
            buckets=DELAYS,
            registry=registry,
        )
        self._loop_lag = Histogram(
            f"{name}loop_lag_seconds",
            "By how much the event loop was late with a timer, twenty times a second.",
            buckets=DELAYS,
            registry=registry,
        )
        self._batches = Counter(
            f"{name}batches", "Solved batches, by how the solver ended.", ["termination"], registry=registry
        )
        self._batch_size = Histogram(
            f"{name}batch_size",
            "Requests in one batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024),
            registry=registry,
        )
        self._solve_seconds = Histogram(
            f"{name}solve_seconds", "Seconds to assign one batch.", buckets=SOLVES, registry=registry
        )
        self._gap = Histogram(
            f"{name}gap",
            "Proven distance of an assignment from the best conceivable, as a part of quality from 0 to 1.",
            buckets=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
            registry=registry,
        )
        self._queue = Gauge(f"{name}queue_length", "Requests that wait for a place.", registry=registry)
        self._cost = Counter(
            f"{name}cost_usd", "USD booked for answers, by model.", ["model"], registry=registry
        )
        self._expired = Counter(
            f"{name}expired_decisions", "Routed decisions that nobody settled in time.", registry=registry
        )
        self._excess = Counter(
            f"{name}excess_usd",
            "USD that servers billed above the bound that was reserved; must stay 0.",
            registry=registry,
        )
        self._keys = Gauge(
            f"{name}keys_missing",
            "API keys that the fleet names and this pod does not have; their models are not used.",
            registry=registry,
        )
        self._draining = Gauge(
            f"{name}draining", "1 while the sidecar shuts down and takes no new request.", registry=registry
        )
        self._slots = Gauge(f"{name}slots", "Leased slots, by state.", ["state"], registry=registry)
        self._money = Gauge(f"{name}free_money_usd", "USD that can be reserved now.", registry=registry)
        self._live = Gauge(f"{name}lease_live", "1 while the lease gives slots, else 0.", registry=registry)
        self._feedback = Counter(
            f"{name}feedback",
            "Decisions that got feedback, once each, by the model that answered and how it was said.",
            ["model", "source"],
            registry=registry,
        )
        self._score = Counter(
            f"{name}feedback_score",
            "Sum of the scores of feedback, each from 0 to 1, by the model that answered.",
            ["model"],
            registry=registry,
        )
        self._repeated = Counter(
            f"{name}repeated_requests",
            "Requests that were asked again within minutes of their answer, by the model that had answered.",
            ["model"],
            registry=registry,
        )
        self._truncated = Counter(
            f"{name}truncated_answers",
            "Answers that the policy's limit of output tokens cut, by model.",
            ["model"],
            registry=registry,
        )
        self._low_confidence = Counter(
            f"{name}low_confidence",
            "Requests whose estimates were not trusted, so that a rule or the default model decided.",
            registry=registry,
        )
        self._estimator = Gauge(
            f"{name}estimator_info",
            "1 for what estimates rest on.",
            ["version", "learned"],
            registry=registry,
        )
        self._experience = Gauge(
            f"{name}experience_cells",
            "Kinds of answers (task, rule, model and group) that are counted for the operator.",
            registry=registry,
        )
        self._documents = Counter(
            f"{name}documents_refused",
            "Estimators, what was learned and config files that came and could not be used.",
            ["kind"],
            registry=registry,
        )
        for kind in ("estimator", "learned", "manifests"):
            self._documents.labels(kind)
        self._estimator_failures = Counter(
            f"{name}estimator_failures",
            "Requests for which an estimator failed and the next one, or the manifest's priors, counted.",
            registry=registry,
        )
        self._judged = Counter(
            f"{name}judged_answers",
            "Answers that were chosen for the policy's judge, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._judge_cost = Counter(
            f"{name}judge_cost_usd", "USD booked on the account of the policy's judge.", registry=registry
        )
        self._judge_queue = Gauge(
            f"{name}judge_queue", "Answers that wait for the policy's judge.", registry=registry
        )
        self._breaker = Gauge(
            f"{name}breaker_state",
            "What a variant's breaker lets through: 0 everything (closed), 1 a probe at a time (half open), "
            "2 nothing (open).",
            ["model", "variant"],
            registry=registry,
        )
        self._concurrency = Gauge(
            f"{name}concurrency_limit",
            "Leased slots of a variant that are used at a time: fewer where answers became slow or status 429"
            " came.",
            ["model", "variant"],
            registry=registry,
        )
        self._health: frozenset[VariantKey] = frozenset()
        """Variants that these tell of."""
        self._bugs = Counter(
            f"{name}internal_errors",
            "Faults of the sidecar itself, by where they happened.",
            ["stage"],
            registry=registry,
        )
        for stage in STAGES:
            self._bugs.labels(stage)  # an increase from nothing to 1 is none to Prometheus
        self._responses = Counter(
            f"{name}responses",
            "Answers to callers, by protocol and status.",
            ["api", "status"],
            registry=registry,
        )

    def request(self, model: str, tier: str, outcome: str, seconds: float) -> None:
        self._requests.labels(model, tier, outcome).inc()
        self._seconds.labels(model).observe(seconds)

    def feedback(self, decision: Decision, said: Feedback) -> None:
        self._feedback.labels(decision.variant.model, said.source.value).inc()
        self._score.labels(decision.variant.model).inc(said.score)

    def repeated(self, decision: Decision) -> None:
        self._repeated.labels(decision.variant.model).inc()

    def truncated(self, decision: Decision) -> None:
        self._truncated.labels(decision.variant.model).inc()

    def low_confidence(self) -> None:
        self._low_confidence.inc()

    def estimator(self, version: str, learned_version: str) -> None:
        """Tell which estimator is in force; empty: the manifest's priors, and nothing learned."""
        self._estimator.clear()
        self._estimator.labels(version, learned_version).set(1)

    def experience(self, cells: int) -> None:
        self._experience.set(cells)

    def document_refused(self, kind: str) -> None:
        self._documents.labels(kind).inc()

    def estimator_failed(self) -> None:
        self._estimator_failures.inc()

    def retried(self, failure: Failure) -> None:
        self._retries.labels(failure.reason).inc()
        self._lines.retried(failure.reason)

    def retry_withheld(self, failure: Failure) -> None:
        self._withheld.labels(failure.reason).inc()

    def keys_missing(self, count: int) -> None:
        self._keys.set(count)

    def draining(self) -> None:
        self._draining.set(1)

    def cut_stream(self, decision: Decision) -> None:
        self._cut_streams.labels(decision.variant.model).inc()

    def response(self, api: str, status: str) -> None:
        self._responses.labels(api, status).inc()

    def decided(self, decision: Decision) -> None:
        variant = decision.variant
        self._decisions.labels(variant.model, variant.variant, decision.reason.value).inc()
        if decision.rule:
            self._ruled.labels(decision.rule).inc()
        self._waited.labels(decision.tier).observe(decision.waited)
        self._lines.decided(decision)

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()
        self._lines.refused(reason)

    def batch(self, size: int, certificate: Certificate) -> None:
        self._batches.labels(certificate.termination.value).inc()
        self._batch_size.observe(size)
        self._solve_seconds.observe(certificate.seconds)
        self._gap.observe(certificate.gap)

    def deciding(self, seconds: float) -> None:
        self._deciding.observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def queue(self, length: int) -> None:
        self._queue.set(length)

    def settled(self, decision: Decision, cost: NanoUsd, *, expired: bool) -> None:
        self._cost.labels(decision.variant.model).inc(usd(cost))
        if expired:
            self._expired.inc()

    def judged(self, outcome: str) -> None:
        self._judged.labels(outcome).inc()

    def judge_paid(self, cost: NanoUsd) -> None:
        self._judge_cost.inc(usd(cost))

    def judge_queue(self, length: int) -> None:
        self._judge_queue.set(length)

    def excess(self, decision: Decision, amount: NanoUsd) -> None:
        self._excess.inc(usd(amount))
        if decision.settle_within is None:
            problem = "the model server breaks the limits sent to it"
        else:
            problem = "the application asked the model for more, or settled more than the model counted"
        log.error(
            "decision %s of %s at %s cost %.9f USD more than its token limit allows: %s",
            decision.id,
            decision.variant,
            decision.endpoint,
            usd(amount),
            problem,
        )

    def lease(self, holding: Holding, now: float) -> None:
        self._slots.labels("free").set(sum(holding.free(now).values()))
        self._slots.labels("in_flight").set(sum(holding.in_flight().values()))
        self._live.set(holding.live(now))
        money = holding.money(now)
        self._money.set(usd(money) if money is not None else 0.0)
        self._lines.sum_up(now)

    def health(self, states: Mapping[VariantKey, tuple[State, int]]) -> None:
        """Tell each leased variant's breaker and limit."""
        for gone in self._health - states.keys():
            self._breaker.remove(gone.model, gone.variant)
            self._concurrency.remove(gone.model, gone.variant)
        self._health = frozenset(states)
        for variant, (state, usable) in states.items():
            self._breaker.labels(variant.model, variant.variant).set(BREAKER_STATES[state])
            self._concurrency.labels(variant.model, variant.variant).set(usable)

    def bug(self, stage: str, error: BaseException) -> None:
        """Count and log a failure of our own: where it happened, not its text, which may quote a request."""
        self._bugs.labels(stage).inc()
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("stage %s failed with %s\n%s", stage, type(error).__name__, frames)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class AdminApp:
    """The admin port as an ASGI app; it answers these three paths and nothing else.

    `trouble` says why there is no stream to the operator, empty: there is one. A sidecar is ready without it.
    """

    def __init__(
        self, *, telemetry: Telemetry, ready: Callable[[], bool], trouble: Callable[[], str]
    ) -> None:
        self._telemetry = telemetry
        self._ready = ready
        self._trouble = trouble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body, kind = self._answer(scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, str]:
        text = "text/plain; charset=utf-8"
        if path == "/healthz":
            return 200, b"ok\n", text
        if path == "/readyz":
            if not self._ready():
                return 503, b"draining\n", text
            trouble = self._trouble()
            return 200, (f"ok, but without the operator: {trouble}\n" if trouble else "ok\n").encode(), text
        if path == "/metrics":
            return 200, generate_latest(self._telemetry.registry), CONTENT_TYPE_LATEST
        return 404, b"only /healthz, /readyz and /metrics are here\n", text
