"""Stage spec: when a request is tried elsewhere, how long a model server may take, and when it is left alone.

In: `spec.fallback` of a RoutingPolicy. Out: typed values, or one `SpecError`. Only `manifest_policy` calls.
"""

from __future__ import annotations

from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.policy import Breaker, Fallback, RetryOn, Timeouts

MAX_ATTEMPTS = 10
MAX_FAILURES = 1000
MAX_RATE = 1000


def read_fallback(fields: Fields) -> Fallback:
    """Return what `fallback` says; absent fields take their defaults."""
    kinds = [kind.value for kind in RetryOn]
    return Fallback(
        max_attempts=fields.integer("maxAttempts", least=1, most=MAX_ATTEMPTS, default=3),
        retry_on=frozenset(RetryOn(kind) for kind in fields.choices("retryOn", kinds)),
        timeouts=_timeouts(fields.child("timeouts")),
        breaker=_breaker(fields.child("breaker")),
    )


def _timeouts(fields: Fields) -> Timeouts:
    timeouts = Timeouts(
        connect=fields.duration("connect", default="2s", least="10ms", most="1m"),
        first_token=fields.duration("firstToken", default="30s", least="10ms", most="1h"),
        between_tokens=fields.duration("betweenTokens", default="15s", least="10ms", most="1h"),
        min_tokens_per_second=float(fields.decimal("minTokensPerSecond", most=MAX_RATE, default="2")),
        total=fields.duration("total", default="5m", least="10ms", most="24h"),
    )
    if timeouts.connect > timeouts.total:
        problem, remedy = "is shorter than connect", "raise it or lower connect"
        raise SpecError(fields.at("total"), problem, remedy)
    return timeouts


def _breaker(fields: Fields) -> Breaker:
    return Breaker(
        failures=fields.integer("failures", least=1, most=MAX_FAILURES, default=5),
        open_for=fields.duration("openFor", default="30s", least="100ms", most="1h"),
    )
