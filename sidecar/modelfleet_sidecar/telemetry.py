"""What the sidecar tells of itself: the verbs by which all parts count, and log what wants a line.

In: what router, batcher and APIs saw. Out: `metrics`, log lines. Labels are names from fleet and policy,
fixed words or status codes: nothing that callers can make up. Next: `admin` serves the registry.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping

from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.breaker import State
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.values import ModelName, NanoUsd, VariantKey, usd
from prometheus_client import CollectorRegistry

from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.feedback import Feedback
from modelfleet_sidecar.logs import DecisionLines
from modelfleet_sidecar.metrics import Metrics

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
NO_FAULT = frozenset({"Ok", "Cancelled"})
"""Outcomes of requests that nobody need look into."""
BREAKER_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Telemetry:
    """Counters of one sidecar."""

    def __init__(self) -> None:
        self._metrics = metrics = Metrics()
        self._deciding = metrics.deciding.of()
        self._batch_size, self._solve_seconds = metrics.batch_size.of(), metrics.solve_seconds.of()
        self._gap = metrics.gap.of()
        self._lines = DecisionLines()
        self._told: frozenset[VariantKey] = frozenset()
        """Variants whose breakers and limits were told last."""

    @property
    def registry(self) -> CollectorRegistry:
        return self._metrics.registry

    def request(self, model: str, tier: str, outcome: str, seconds: float) -> None:
        self._metrics.requests.of(model, tier, outcome).inc()
        self._metrics.seconds.of(model).observe(seconds)
        if model and outcome not in NO_FAULT:
            self._lines.failed(model, outcome)

    def feedback(self, decision: Decision, said: Feedback) -> None:
        self._metrics.feedback.labels(decision.variant.model, said.source.value).inc()
        self._metrics.score.labels(decision.variant.model).inc(said.score)

    def repeated(self, model: ModelName) -> None:
        self._metrics.repeated.labels(model).inc()

    def truncated(self, decision: Decision) -> None:
        self._metrics.truncated.labels(decision.variant.model).inc()

    def low_confidence(self) -> None:
        self._metrics.low_confidence.inc()

    def estimator(self, version: str, learned_version: str) -> None:
        """Tell which estimator is in force; empty: the manifest's priors, and nothing learned."""
        self._metrics.estimator.clear()
        self._metrics.estimator.labels(version, learned_version).set(1)

    def experience(self, cells: int) -> None:
        self._metrics.experience.set(cells)

    def document_refused(self, kind: str) -> None:
        self._metrics.documents.labels(kind).inc()

    def estimator_failed(self) -> None:
        self._metrics.estimator_failures.inc()

    def retried(self, failure: Failure) -> None:
        self._metrics.retries.labels(failure.reason).inc()
        self._lines.retried(failure.reason)

    def retry_withheld(self, failure: Failure) -> None:
        self._metrics.withheld.labels(failure.reason).inc()

    def keys_missing(self, count: int) -> None:
        self._metrics.keys.set(count)

    def draining(self) -> None:
        self._metrics.draining.set(1)

    def cut_stream(self, decision: Decision) -> None:
        self._metrics.cut_streams.labels(decision.variant.model).inc()

    def response(self, api: str, status: str) -> None:
        self._metrics.responses.of(api, status).inc()

    def decided(self, decision: Decision) -> None:
        variant = decision.variant
        self._metrics.decisions.of(variant.model, variant.variant, decision.reason.value).inc()
        if decision.rule:
            self._metrics.ruled.labels(decision.rule).inc()
        self._metrics.waited.of(decision.tier).observe(decision.waited)
        self._lines.decided(decision)

    def refused(self, reason: str) -> None:
        self._metrics.refusals.labels(reason).inc()
        self._lines.refused(reason)

    def batch(self, size: int, certificate: Certificate) -> None:
        self._metrics.batches.of(certificate.termination.value).inc()
        self._batch_size.observe(size)
        self._solve_seconds.observe(certificate.seconds)
        self._gap.observe(certificate.gap)

    def deciding(self, seconds: float) -> None:
        self._deciding.observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        self._metrics.loop_lag.observe(seconds)

    def queue(self, length: int) -> None:
        self._metrics.queue.set(length)

    def settled(self, decision: Decision, cost: NanoUsd, *, expired: bool) -> None:
        self._metrics.cost.of(decision.variant.model).inc(usd(cost))
        if expired:
            self._metrics.expired.inc()

    def judged(self, outcome: str) -> None:
        self._metrics.judged.labels(outcome).inc()

    def judge_paid(self, cost: NanoUsd) -> None:
        self._metrics.judge_cost.inc(usd(cost))

    def judge_queue(self, length: int) -> None:
        self._metrics.judge_queue.set(length)

    def prompt_above_bound(self, decision: Decision) -> None:
        self._metrics.above_bound.labels(decision.variant.model).inc()

    def excess(self, decision: Decision, amount: NanoUsd) -> None:
        self._metrics.excess.inc(usd(amount))
        log.error(
            "decision %s of %s at %s cost %.9f USD more than its token limit allows: the model server breaks "
            "the limits sent to it, or counts more of the prompt",
            decision.id,
            decision.variant,
            decision.endpoint,
            usd(amount),
        )

    def lease(self, holding: Holding, now: float) -> None:
        self._metrics.slots.labels("free").set(sum(holding.free(now).values()))
        self._metrics.slots.labels("in_flight").set(sum(holding.in_flight().values()))
        self._metrics.live.set(holding.live(now))
        money = holding.money(now)
        self._metrics.money.set(usd(money) if money is not None else 0.0)
        self._lines.sum_up(now)

    def health(self, states: Mapping[VariantKey, tuple[State, int]]) -> None:
        """Tell each leased variant's breaker and limit."""
        for gone in self._told - states.keys():
            self._metrics.breaker.remove(gone.model, gone.variant)
            self._metrics.concurrency.remove(gone.model, gone.variant)
        self._told = frozenset(states)
        for variant, (state, usable) in states.items():
            self._metrics.breaker.labels(variant.model, variant.variant).set(BREAKER_STATES[state])
            self._metrics.concurrency.labels(variant.model, variant.variant).set(usable)

    def bug(self, stage: str, error: BaseException) -> None:
        """Count and log a failure of our own: where it happened, not its text, which may quote a request."""
        self._metrics.bugs.labels(stage).inc()
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("stage %s failed with %s\n%s", stage, type(error).__name__, frames)
