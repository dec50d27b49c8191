"""Serves stage status: the operator's metrics.

In: counts and times of the loops, `Figures` of every fleet and policy. Next: `probes` serves them.
"""

from __future__ import annotations

from modelfleet_core.values import ObjectKey
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from modelfleet_operator.figures import Figures

LABELS = {
    "namespace": "Namespace of the fleet or policy.",
    "fleet": "Name of the ModelFleet.",
    "policy": "Name of the RoutingPolicy.",
    "model": "Name of the model in its fleet.",
    "variant": "Name of the variant in its model.",
    "pool": "Name of the pool in its fleet.",
    "condition": "Type of the condition, such as `Accepted`, `WithinBudget`, `Stalled` or `Ready`.",
    "basis": (
        "`Reported` (sidecars report their demand), `Held` (they do not: the last plan stays) or `Assumed` "
        "(no request was ever reported)."
    ),
    "modelfleet_replicas/state": (
        "`current` (asked of the Deployment), `desired` (planned), `ready` (leased), `draining` (ready, but "
        "gets no new request) or `terminating`."
    ),
    "modelfleet_slots/state": (
        "`live` (of ready endpoints), `leased` (held by sidecars there) or `over` (leased beyond live; these "
        "are recalled, so that it is 0 but for moments after capacity vanished)."
    ),
    "modelfleet_slot_price/state": "`published`: as sidecars get it with their leases.",
    "modelfleet_pool_gpus/state": (
        "`planned`, `occupied` (by all pods that exist, pending and terminating ones too), `limit` (of the "
        "manifest) or `stock` (of the nodes)."
    ),
    "modelfleet_events/kind": "Kind of the object, such as `Pod`.",
    "modelfleet_told_events/outcome": (
        "`posted`, `refused` (by the API server) or `left_out` (the object had too much to tell)."
    ),
    "modelfleet_passes/outcome": (
        "`done`, `overtaken` (the spec changed meanwhile: it is planned anew), `refused` (the spec), `gone`, "
        "`unavailable` (the API server) or `failed` (a fault of the operator)."
    ),
    "modelfleet_scale_patches/outcome": (
        "`Done`, `Overtaken` (someone else changed the Deployment first) or `Refused`."
    ),
    "modelfleet_learning_failures/where": (
        "`refused` (what a sidecar says that it saw is out of bounds), `hear`, `learn`, `keep` (for the next "
        "leader) or `restore` (what an earlier one kept)."
    ),
    "modelfleet_estimator_standing/standing": (
        "`Steady`, `Drift` (scores moved away from estimates) or `RolledBack` (learning is withdrawn)."
    ),
    "modelfleet_estimator_error/estimate": "`used` (by routing) or `base` (without what was learned).",
    "modelfleet_model_quality/source": (
        "`feedback` (mean of scores; absent below 10 of them) or `predicted` (by routing)."
    ),
    "modelfleet_capacity_token_reviews/outcome": "`accepted`, `refused` or `unavailable` (no answer).",
    "modelfleet_capacity_refused_streams/reason": (
        "`NoToken`, `BadToken`, `OtherAudience`, `NoServiceAccount`, `NotBound` (to a pod), `OtherPod` (the "
        "report is of another), `NotReviewed` (the API server does not answer) or `TooManyStreams`."
    ),
}
"""What each label means, for all metrics or for one (`metric/label`)."""
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Telemetry:
    """All metrics of one program, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.figures = Figures()
        self.registry.register(self.figures)
        self.leading = Gauge(
            "modelfleet_operator_leading", "1 while this process leads, else 0.", registry=self.registry
        )
        self.epoch = Gauge(
            "modelfleet_operator_epoch", "Epoch of this process; 0: it never led.", registry=self.registry
        )
        self.events = Counter(
            "modelfleet_events",
            "Watch events of the cluster, by kind of object.",
            ("kind",),
            registry=self.registry,
        )
        self.told = Counter(
            "modelfleet_told_events",
            "Kubernetes Events about fleets and policies, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        self.passes = Counter(
            "modelfleet_passes",
            "Passes of a fleet's reconcile loop, by outcome.",
            ("namespace", "fleet", "outcome"),
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "modelfleet_pass_seconds",
            "Seconds of one pass over a fleet: planning, scaling and telling.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.scales = Counter(
            "modelfleet_scale_patches",
            "Patches of /scale, by outcome.",
            ("namespace", "fleet", "outcome"),
            registry=self.registry,
        )
        self.reached = Gauge(
            "modelfleet_capacity_reached",
            "1 while the capacity Service leads to this process.",
            registry=self.registry,
        )
        self.certificate_expiry = Gauge(
            "modelfleet_capacity_certificate_expiry_seconds",
            "When the certificate of the capacity service ends, in seconds since 1970; 0: it has none.",
            registry=self.registry,
        )
        self._reviews = Counter(
            "modelfleet_capacity_token_reviews",
            "Reviews of sidecars' tokens by the API server, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._unlearned = Counter(
            "modelfleet_learning_failures",
            "What kept something from being learned, or kept for the next leader.",
            ("where",),
            registry=self.registry,
        )
        self._refused_streams = Counter(
            "modelfleet_capacity_refused_streams",
            "Calls of the capacity service that were not served, by reason.",
            ("reason",),
            registry=self.registry,
        )

    def forget(self, fleet: ObjectKey) -> None:
        """The fleet is gone, and with it all that is known of it."""
        self.figures.fleets.pop(fleet, None)
        for counter in (self.passes, self.scales):
            counter.remove_by_labels({"namespace": fleet.namespace, "fleet": fleet.name})

    def count_review(self, outcome: str) -> None:
        """Count a review of a token: accepted, refused or unavailable."""
        self._reviews.labels(outcome).inc()

    def count_unlearned(self, where: str) -> None:
        """Count what kept something from being learned or kept: refused, hear, learn, keep or restore."""
        self._unlearned.labels(where).inc()

    def count_refused(self, reason: str) -> None:
        """Count a call that was not served, by the reason of its `AdmissionError`."""
        self._refused_streams.labels(reason).inc()
