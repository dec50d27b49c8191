"""Stage forward: whether a request that failed at one endpoint is tried at another, and how.

In: the `Ask`, its `Decision` and the `Failure`, before the caller had any byte of an answer. Out: the ask for
the next attempt, with the same deadline, arrival and tier, which avoids what failed; or None. Next: `router`
decides on it like on any other.
"""

from __future__ import annotations

from dataclasses import replace

from modelfleet_core.policy import Fallback, RetryOn

from modelfleet_sidecar.decision import Ask, Attempt, Decision
from modelfleet_sidecar.failures import Failure

GONE = frozenset({RetryOn.CONNECT, RetryOn.TIMEOUT})
"""Failures of a whole server, not of one model there, which may be over in a moment: pods are replaced."""
PAUSE = 1.0
"""Seconds after the first failure that a request waits for an endpoint elsewhere before it goes back; doubled
with each more. The operator takes about 3 s to see that a pod is gone."""


def next_attempt(ask: Ask, decision: Decision, failure: Failure, fallback: Fallback) -> Ask | None:
    """Return what to decide on next; None: the failure is what the caller gets."""
    made = len(ask.earlier) + 1
    if failure.retry_on not in fallback.retry_on or made >= fallback.max_attempts:
        return None
    failed = decision.endpoint if failure.retry_on in GONE else decision.slot
    attempt = Attempt(decision.id, decision.variant, decision.endpoint, failure.reason)
    return replace(ask, earlier=(*ask.earlier, attempt), avoided=ask.avoided | {failed})


def pause_after(ask: Ask, failure: Failure) -> float | None:
    """Return the seconds to wait for an endpoint elsewhere where the lease has none; None: do not wait.

    A server that answers is not gone: it said when to come back.
    """
    return PAUSE * 2.0 ** (len(ask.earlier) - 1) if failure.retry_on in GONE else None


def anywhere(ask: Ask) -> Ask:
    """Return the ask without what it avoids: nothing else came, and what failed may be back."""
    return replace(ask, avoided=frozenset())
