"""Each kind of failure has one status in each protocol."""

from __future__ import annotations

import grpc
import pytest
from modelfleet_sidecar.failures import TABLE, Failure, Fault, bad_field, internal


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_has_a_status_in_every_protocol(fault: Fault) -> None:
    status = TABLE[fault]
    assert status.grpc in grpc.StatusCode.__members__
    assert 400 <= status.http <= 599
    assert status.openai_type


def test_the_envelope_is_that_of_openai() -> None:
    failure = bad_field("n", "must be from 1 to 128")
    assert failure.envelope() == {
        "error": {
            "message": "n: must be from 1 to 128",
            "type": "invalid_request_error",
            "param": "n",
            "code": "InvalidField",
        }
    }


def test_a_bug_is_told_without_quoting_what_broke() -> None:
    failure = internal(ValueError("secret prompt"))
    assert failure.fault is Fault.INTERNAL
    assert "secret" not in str(failure)
    assert "ValueError" in failure.message


def test_a_failure_reads_as_reason_and_message() -> None:
    assert str(Failure(Fault.EXHAUSTED, "Overloaded", "come back")) == "Overloaded: come back"
