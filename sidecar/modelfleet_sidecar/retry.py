"""Stage forward: whether a request that failed at one endpoint is tried at another, and how.

In: the `Ask`, its `Decision` and the `Failure`, before the caller had any byte of an answer. Out: the ask for
the next attempt, with the same deadline, arrival and tier, which avoids what failed; or None. Next: `router`
decides on it like on any other.
"""

from __future__ import annotations

from dataclasses import replace

from modelfleet_core.policy import Fallback, RetryOn
from modelfleet_core.values import NanoUsd

from modelfleet_sidecar.decision import Ask, Attempt, Decision
from modelfleet_sidecar.failures import Failure

GONE = frozenset({RetryOn.CONNECT, RetryOn.TIMEOUT})
"""Failures of a whole server, not of one model there, which may be over in a moment: pods are replaced."""
PAUSE = 1.0
"""Seconds after the first failure that a request waits for an endpoint elsewhere before it goes back; doubled
with each more. The operator takes about 3 s to see that a pod is gone."""


LOADING = frozenset({RetryOn.TIMEOUT, RetryOn.RATE_LIMITED, RetryOn.SERVER_ERROR})
"""Failures of servers that worked on a request: to ask again is more work. A lost or refused connection frees
what it took, and there are no more of them than slots."""
RATIO = 0.2
"""Attempts again for each new request that the budget gains."""
MOST = 25.0
"""Attempts again that the budget holds at most, as it does at the start."""
A_SECOND = 1.0
"""The same it gains each second, so that rare requests are tried again too."""


class RetryBudget:
    """How many requests may be tried again, over all of them: where every server fails, attempts grow by a
    fifth, not to three times the requests. Times are seconds on one clock."""

    def __init__(self, now: float) -> None:
        self._left = MOST
        self._at = now

    def asked(self, now: float) -> None:
        """A new request came."""
        self._gain(now, RATIO)

    def take(self, failure: Failure, now: float) -> bool:
        """Return whether a request that failed so may be tried again, and count that."""
        if failure.retry_on not in LOADING:
            return True
        self._gain(now, 0.0)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def _gain(self, now: float, more: float) -> None:
        self._left = min(MOST, self._left + more + A_SECOND * max(0.0, now - self._at))
        self._at = max(self._at, now)


def next_attempt(
    ask: Ask, decision: Decision, failure: Failure, fallback: Fallback, cost: NanoUsd
) -> Ask | None:
    """Return what to decide on next; None: the failure is what the caller gets.

    `cost`: what the failed attempt cost, at most. The caller's bound of cost holds for all attempts together.
    """
    made = len(ask.earlier) + 1
    if failure.retry_on not in fallback.retry_on or made >= fallback.max_attempts:
        return None
    failed = decision.endpoint if failure.retry_on in GONE else decision.slot
    attempt = Attempt(decision.id, decision.variant, decision.endpoint, failure.reason)
    left = None if ask.max_cost is None else NanoUsd(max(0, ask.max_cost - cost))
    return replace(ask, earlier=(*ask.earlier, attempt), avoided=ask.avoided | {failed}, max_cost=left)


def pause_after(ask: Ask, failure: Failure) -> float | None:
    """Return the seconds to wait for an endpoint elsewhere where the lease has none; None: do not wait.

    A server that answers is not gone: it said when to come back.
    """
    return PAUSE * 2.0 ** (len(ask.earlier) - 1) if failure.retry_on in GONE else None


def anywhere(ask: Ask) -> Ask:
    """Return the ask without what it avoids: nothing else came, and what failed may be back."""
    return replace(ask, avoided=frozenset())
