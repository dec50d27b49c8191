"""The injector's metrics.

In: outcomes and times from `server`, what `app` sees of certificates and the watch. Next: `probes` serves it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from modelfleet_operator.injection.patch import Outcome

MALFORMED = "malformed"
LABELS = {
    "modelfleet_injector_admissions/outcome": (
        "What became of a review: injected; present (the pod had the sidecar); unasked (no label, or no "
        "creation of a pod); refused (the pod would not work with the sidecar); malformed (no review that "
        "can be answered: an HTTP error); failed (a fault of the injector; the pod was let through)."
    ),
    "modelfleet_injector_reloads/outcome": "Whether the changed file could be used: used or unusable.",
}
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class Telemetry:
    """All metrics of one program, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.admissions = Counter(
            "modelfleet_injector_admissions",
            "Admission reviews, by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in (*(outcome.value for outcome in Outcome), MALFORMED):
            self.admissions.labels(outcome)
        self.seconds = Histogram(
            "modelfleet_injector_admission_seconds",
            "Seconds from a whole review to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.expires = Gauge(
            "modelfleet_injector_certificate_expiry_seconds",
            "When the webhook's certificate ends, in seconds since 1970.",
            registry=self.registry,
        )
        self.reloads = Counter(
            "modelfleet_injector_reloads",
            "Changes of the certificate's or the authority's files, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self.following = Gauge(
            "modelfleet_injector_following",
            "1 while fleets and policies are watched, 0 while the last known ones are used.",
            registry=self.registry,
        )
