"""How attempts end decides how many of the leased slots are used."""

from __future__ import annotations

from modelfleet_core.health import Health
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import RetryOn
from modelfleet_sidecar.attempts import Attempts
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.incapable import Incapable
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates
from support.decisions import decision
from support.sidecars import GivenLease, policy_of

SLOTS = 8
ASKED = decision(1)


class Bench:
    """One endpoint with eight leased slots, none in use, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = Health()
        lease = GivenLease()
        lease.policy = policy_of()
        lease.grant({ASKED.slot: SlotGrant(ASKED.variant, SLOTS)})
        clock = lambda: self.now  # noqa: E731
        telemetry = Telemetry()
        self.attempts = Attempts(
            lease=lease,
            health=self.health,
            templates=Templates(lease=lease, clock=clock, telemetry=telemetry, raised=lambda: None),
            incapable=Incapable(clock),
            clock=clock,
            telemetry=telemetry,
        )

    def answer(self, seconds: float) -> None:
        self.now += seconds
        self.attempts.whole(ASKED, seconds, tokens=50)

    @property
    def usable(self) -> int:
        return self.health.usable(ASKED.variant, ASKED.slot, SLOTS, 0, self.now)


def test_a_server_whose_answers_take_many_times_as_long_gets_fewer_at_a_time_and_then_more_again() -> None:
    bench = Bench()
    for _ in range(40):
        bench.answer(1.0)
    assert bench.usable == SLOTS
    for _ in range(40):
        bench.answer(10.0)
    assert bench.usable < SLOTS
    fewest = bench.usable
    for _ in range(200):
        bench.answer(1.0)
    assert bench.usable > fewest


def test_a_server_that_wants_no_requests_for_a_while_gets_none_and_then_fewer() -> None:
    bench = Bench()
    busy = Failure(Fault.EXHAUSTED, "UpstreamRateLimited", "busy", retry_on=RetryOn.RATE_LIMITED)
    busy.back_off = 30.0
    bench.attempts.failed(ASKED, bench.now, busy)
    assert bench.usable == 0
    bench.now += 30.0
    assert 1 <= bench.usable < SLOTS
