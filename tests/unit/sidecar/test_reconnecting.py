"""How long a sidecar waits before it connects to the operator again."""

from __future__ import annotations

from modelfleet_sidecar.lease import RETRY_FIRST, RETRY_MOST, reconnect_after


def test_an_outage_may_last_for_any_time() -> None:
    waits = [reconnect_after(failures, 1.0) for failures in (0, 5, 1_024, 1_000_000)]
    assert waits == sorted(waits)
    assert waits[-1] == RETRY_MOST


def test_sidecars_that_lose_their_leader_at_one_moment_come_back_at_different_ones() -> None:
    for failures in range(20):
        first, last = reconnect_after(failures, 0.0), reconnect_after(failures, 1.0)
        assert first == RETRY_FIRST
        assert last >= 5 * first
