"""Stage forward, its errors: what went wrong at a model server, as the caller's `Failure`.

In: statuses, broken connections, answers that make no sense. Out: `Failure`, with `retry_on` where another
endpoint might do better. Next: `serving` tries there or raises it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from modelfleet_core.policy import RetryOn

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.connection import ConnectError, CutError
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.failures import UNREACHABLE, Failure, Fault
from modelfleet_sidecar.incapable import lacking
from modelfleet_sidecar.patience import LateError
from modelfleet_sidecar.sse import error_text

TIMED_OUT = "UpstreamTimeout"
RATE_LIMITED = "UpstreamRateLimited"
KEY_REFUSED = "ApiKeyRefused"
MAX_RETRY_AFTER = 3600.0
"""Seconds."""


def unreachable(decision: Decision, error: ConnectError) -> Failure:
    """Return the error of a server that no connection came about with."""
    return Failure(
        Fault.UNAVAILABLE,
        UNREACHABLE,
        f"{_who(decision)} can not be reached: {error}",
        retry_after=1.0,
        retry_on=RetryOn.TIMEOUT if error.late else RetryOn.CONNECT,
    )


def refused(
    decision: Decision, call: Call, status: int, headers: Mapping[bytes, bytes], text: bytes, key: str
) -> Failure:
    """Return the error of an answer other than 200, with what the server said, but for the API key."""
    try:
        said = error_text(json.loads(text), key)
    except (ValueError, RecursionError):
        said = "no reason given"
    who, lacks = _who(decision), lacking(call, status, said)
    if status == 404:
        said += (
            f"; the fleet's url, servedName ({decision.served_name}) or capabilities may not be the server's"
        )
    if key and status in (401, 403):
        return Failure(  # without what the server said: it may quote parts of the key
            Fault.UNAVAILABLE,
            KEY_REFUSED,
            f"{who} answered {status}: it does not take the API key {decision.api_key}; replace that key",
            retry_after=1.0,
            retry_on=RetryOn.SERVER_ERROR,
        )
    failure = _by_status(who, status, said, retry_after(headers))
    if lacks:
        failure.lacks, failure.retry_on = lacks, RetryOn.SERVER_ERROR
    return failure


def _by_status(who: str, status: int, said: str, after: float | None) -> Failure:
    if status == 429:
        failure = Failure(
            Fault.EXHAUSTED,
            RATE_LIMITED,
            f"{who} is rate limited: {said}",
            retry_after=1.0 if after is None else after,
            retry_on=RetryOn.RATE_LIMITED,
        )
        failure.back_off = after
        return failure
    if status in (400, 422):
        return Failure(Fault.BAD_REQUEST, "UpstreamRejected", f"{who} rejects the request: {said}")
    if status == 413:
        return Failure(Fault.TOO_LARGE, "UpstreamRejected", f"{who} finds the request too large: {said}")
    # Not only 5xx: that a server knows no such model or path, or wants a login or to be paid, is no fault of
    # the request, and fails each one until somebody mends it.
    return Failure(
        Fault.UNAVAILABLE,
        "UpstreamError",
        f"{who} answered {status}: {said}",
        retry_after=1.0 if after is None else after,
        retry_on=RetryOn.SERVER_ERROR,
    )


def retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Return the seconds of a Retry-After, which may be a date (RFC 9110, 10.2.3); None: none that is one.

    A date counts from the server's own, where it says one: clocks differ.
    """
    said = headers.get(b"retry-after")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        until = _date(said)
        if until is None:
            return None
        present = _date(headers.get(b"date", b""))
        seconds = until - (time.time() if present is None else present)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _date(text: bytes) -> float | None:
    try:
        return parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None


def cut(decision: Decision, error: CutError) -> Failure:
    """Return the error of an answer that ended too early, or took too long."""
    if isinstance(error, LateError) and error.callers:
        return Failure(
            Fault.UNAVAILABLE, TIMED_OUT, f"the answer of {_who(decision)} was read too slowly: {error}"
        )
    if isinstance(error, LateError):
        return Failure(
            Fault.UNAVAILABLE,
            TIMED_OUT,
            f"{_who(decision)} is too slow: {error}",
            retry_after=1.0,
            retry_on=RetryOn.TIMEOUT,
        )
    return Failure(
        Fault.UNAVAILABLE,
        "UpstreamCut",
        f"{_who(decision)} broke off: {error}",
        retry_after=1.0,
        retry_on=RetryOn.CONNECT,
    )


def hung(decision: Decision, silent: float) -> Failure:
    """Return the error of a server that its caller left after so many seconds without any content."""
    said = f"{_who(decision)} was silent for {silent:.3g} s, when its caller left"
    return Failure(Fault.UNAVAILABLE, TIMED_OUT, said, retry_on=RetryOn.TIMEOUT)


def broke(decision: Decision, error: object, secret: str) -> Failure:
    """Return the error that a server said where content was due: by its code, if that is a status."""
    said = error_text(error, secret)
    code = error.get("code") if isinstance(error, Mapping) else None
    kind = error.get("type") if isinstance(error, Mapping) else None
    if "rate_limit" in str(code) or "rate_limit" in str(kind):
        code = 429
    if isinstance(code, str) and code.isdecimal() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and code in (400, 413, 422, 429):
        return _by_status(_who(decision), code, said, None)
    return Failure(
        Fault.UNAVAILABLE,
        "UpstreamError",
        f"{_who(decision)} failed while it answered: {said}",
        retry_after=1.0,
        retry_on=RetryOn.SERVER_ERROR,
    )


def malformed(decision: Decision, problem: str) -> Failure:
    """Return the error of an answer that makes no sense."""
    return Failure(
        Fault.UNAVAILABLE,
        "UpstreamMalformed",
        f"{_who(decision)} can not be understood: {problem}",
        retry_on=RetryOn.SERVER_ERROR,
    )


def empty(decision: Decision) -> Failure:
    """Return the error of an answer without content that gives no reason for it."""
    return Failure(
        Fault.UNAVAILABLE,
        "UpstreamEmpty",
        f"{_who(decision)} answered nothing, without a reason to finish",
        retry_on=RetryOn.SERVER_ERROR,
    )


def _who(decision: Decision) -> str:
    return f"model {decision.variant} at {decision.endpoint}"
