"""Errors that a call can end with: one class for each thing that callers do something else about.

In: a status of the sidecar, read by `wire`. Out: what applications catch.
"""

from __future__ import annotations


class ModelfleetError(Exception):
    """A call without an answer. `str()` says what happened and what to do."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        decision_id: str = "",
        attempts: int = 0,
        limit: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        """Name of the gRPC status."""
        self.reason = reason
        """A stable word such as NoFreeSlot; empty: it did not come from the sidecar."""
        self.field = field
        """Of the request, the one at fault; empty: none is."""
        self.retry_after = retry_after
        """Seconds after which it is worth another try; None: not known to be."""
        self.decision_id = decision_id
        """Of the last attempt; empty: none was sent to a model server."""
        self.attempts = attempts
        self.limit = limit
        """The account or rate that is used up, such as budget or share:gpt-4o; empty: none is."""


class BadRequest(ModelfleetError):
    """The request can never be served as it is: see `field`."""


class TooLarge(BadRequest):
    """The request has more bytes than the policy's `limits.maxBody`, or than the model server takes."""


class NotFound(ModelfleetError):
    """There is no such model, or no such decision (any more)."""


class BudgetExhausted(ModelfleetError):
    """What is left of the budget, a share or a quota does not cover the request."""


class Overloaded(ModelfleetError):
    """No slot came free, or a model server limits its rate."""


class Unavailable(ModelfleetError):
    """No model server could answer, or the sidecar ends."""


class NoLease(Unavailable):
    """The sidecar may use nothing at the moment: the operator has not granted it anything, or not lately."""


class Unreachable(Unavailable):
    """There is no sidecar at the address, or the connection to it broke."""


class Late(ModelfleetError):
    """The time that the caller, or the policy, gave the call is over."""


class Cancelled(ModelfleetError):
    """The call was cancelled."""


class Unauthenticated(ModelfleetError):
    """A shared gateway does not know the key or the token."""


class SidecarBroke(ModelfleetError):
    """The sidecar failed; its log has the details."""


def error_class(code: str, reason: str) -> type[ModelfleetError]:
    """Return what a status is raised as."""
    match code:
        case "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE":
            return BadRequest
        case "UNAUTHENTICATED":
            return Unauthenticated
        case "NOT_FOUND":
            return NotFound
        case "RESOURCE_EXHAUSTED" if reason in ("BodyTooLarge", "UpstreamRejected", ""):
            return TooLarge  # grpc's own limit has no reason
        case "RESOURCE_EXHAUSTED" if reason == "BudgetExhausted":
            return BudgetExhausted
        case "RESOURCE_EXHAUSTED":
            return Overloaded
        case "UNAVAILABLE" if reason == "NoLease":
            return NoLease
        case "UNAVAILABLE":
            return Unavailable if reason else Unreachable
        case "DEADLINE_EXCEEDED":
            return Late
        case "CANCELLED":
            return Cancelled
        case "INTERNAL":
            return SidecarBroke
        case _:
            return ModelfleetError
