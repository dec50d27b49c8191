"""Errors of the sidecar: one exception, and one table from its kind to gRPC, HTTP and OpenAI's envelope.

In: whatever goes wrong between a caller and a model. Out: `Failure`, raised once per request.
Next: `http_api` and `grpc_api` translate it by `TABLE`; nothing else maps errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelfleet_core.policy import RetryOn

DRAINING = "Draining"
UNREACHABLE = "UpstreamUnreachable"


class Fault(Enum):
    """What kind of thing went wrong, as callers must tell them apart."""

    BAD_REQUEST = "BadRequest"
    UNAUTHENTICATED = "Unauthenticated"
    NOT_FOUND = "NotFound"
    WRONG_METHOD = "WrongMethod"
    TOO_LARGE = "TooLarge"
    WRONG_MEDIA = "WrongMedia"
    EXHAUSTED = "Exhausted"
    UNAVAILABLE = "Unavailable"
    DEADLINE = "Deadline"
    CANCELLED = "Cancelled"
    INTERNAL = "Internal"


@dataclass(frozen=True, slots=True)
class Status:
    """How a fault is said in each protocol."""

    grpc: str
    """Name of the `grpc.StatusCode`."""
    http: int
    openai_type: str


TABLE: dict[Fault, Status] = {
    Fault.BAD_REQUEST: Status("INVALID_ARGUMENT", 400, "invalid_request_error"),
    Fault.UNAUTHENTICATED: Status("UNAUTHENTICATED", 401, "authentication_error"),
    Fault.NOT_FOUND: Status("NOT_FOUND", 404, "invalid_request_error"),
    Fault.WRONG_METHOD: Status("UNIMPLEMENTED", 405, "invalid_request_error"),
    Fault.WRONG_MEDIA: Status("INVALID_ARGUMENT", 415, "invalid_request_error"),
    Fault.TOO_LARGE: Status("RESOURCE_EXHAUSTED", 413, "invalid_request_error"),
    Fault.EXHAUSTED: Status("RESOURCE_EXHAUSTED", 429, "rate_limit_error"),
    Fault.UNAVAILABLE: Status("UNAVAILABLE", 503, "service_unavailable"),
    Fault.DEADLINE: Status("DEADLINE_EXCEEDED", 504, "timeout_error"),
    Fault.CANCELLED: Status("CANCELLED", 499, "cancelled"),
    Fault.INTERNAL: Status("INTERNAL", 500, "server_error"),
}


class Failure(Exception):  # noqa: N818 - an outcome as much as an error
    """The one error that a request ends with.

    `reason` is a stable word for programs (`BudgetExhausted`), `message` says what happened and what to do,
    `field` names the part of the request at fault, `retry_after` is in seconds. None holds prompt text.
    `retry_on` says what failed at a model server that another one might do better; None: nothing.
    `attempts` counts the decisions that were sent to a model server, or were about to be; `decision_id` is
    that of the last one, empty: there was none. `back_off` is in seconds what a model server asked for; None:
    nothing. `lacks` is the capability that a model server said to be without, empty: it did not. `limit` is
    the account or the rate that is used up (`budget`, `share:...`), empty: none is.
    """

    def __init__(
        self,
        fault: Fault,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
        retry_on: RetryOn | None = None,
        limit: str = "",
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.fault = fault
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.retry_on = retry_on
        self.attempts = 0
        self.decision_id = ""
        self.back_off: float | None = None
        self.lacks = ""
        self.limit = limit

    @property
    def status(self) -> Status:
        return TABLE[self.fault]

    def envelope(self) -> dict[str, object]:
        """Return OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.status.openai_type,
                "param": self.field,
                "code": self.reason,
            }
        }


def bad_field(field: str, problem: str) -> Failure:
    """Return the error of a request whose `field` can not be used."""
    return Failure(Fault.BAD_REQUEST, "InvalidField", f"{field}: {problem}", field=field)


def internal(error: BaseException) -> Failure:
    """Return the error of a bug: its type is said, its text is not, since it may quote the request."""
    return Failure(
        Fault.INTERNAL,
        "InternalError",
        f"the sidecar failed ({type(error).__name__}); its log has the details",
    )


def shutting_down() -> Failure:
    """Return the error of a request that comes, or does not end, while the sidecar ends."""
    return Failure(Fault.UNAVAILABLE, DRAINING, "this sidecar is shutting down", retry_after=1.0)


def late(seconds: float) -> Failure:
    """Return the error of a request whose time is up."""
    return Failure(Fault.DEADLINE, "DeadlineExceeded", f"the request's deadline passed after {seconds:.3g} s")
