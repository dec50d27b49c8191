"""The one object behind both APIs: ask -> decide -> forward -> settle, and what may be asked about it later.

In: `Call`s with their headers and time left. Out: `Decision`s, `Exchange`s, receipts, explanations.
`http_api` and `grpc_api` only translate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.health import Health

from modelfleet_sidecar.asking import Asker
from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.attempts import Attempts
from modelfleet_sidecar.batch import Batcher
from modelfleet_sidecar.books import Books, Counted, Settled
from modelfleet_sidecar.calls import AUTO, Call
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.dialing import Dialer
from modelfleet_sidecar.estimates import LiveEstimator
from modelfleet_sidecar.exchange import Exchange
from modelfleet_sidecar.explain import Entry
from modelfleet_sidecar.failures import Failure, Fault, shutting_down
from modelfleet_sidecar.feedback import Feedback
from modelfleet_sidecar.in_flight import InFlight
from modelfleet_sidecar.incapable import Incapable
from modelfleet_sidecar.intake import Intake
from modelfleet_sidecar.judge import Judging
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.loop_lag import watch
from modelfleet_sidecar.offline import OfflineBatches
from modelfleet_sidecar.plugins import JudgePlugins
from modelfleet_sidecar.prospect import known_model
from modelfleet_sidecar.refusals import no_lease
from modelfleet_sidecar.serving import Serving
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates
from modelfleet_sidecar.unreachable import Unreachable
from modelfleet_sidecar.upstream import Pool

DEFAULT_MAX_BODY = 16 * 1024 * 1024
DEFAULT_MAX_REQUEST = 600.0
CONNECT_TIMEOUT = 2.0
HOUSEKEEPING = 1.0
LAST_WORDS = 0.5
"""Seconds that requests get to tell their callers that the sidecar goes down."""


class Router:
    """Decides, forwards and accounts requests within the lease."""

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: LiveEstimator,
        learning: Learning,
        keys: ApiKeys,
        telemetry: Telemetry,
        clock: Callable[[], float],
        settler: Callable[[], bool] = lambda: True,
        dialer: Dialer | None = None,
        draw: Callable[[], float],
    ) -> None:
        """`settler` tells whether anyone is left who could settle routed decisions, for the end; `draw`
        returns random numbers, uniform in [0, 1), for exploration; `dialer` connects with model servers."""
        self._lease = lease
        self._estimator = estimator
        self._learning = learning
        self._keys = keys
        self._telemetry = telemetry
        self._clock = clock
        self.turn = Intake().turn
        """Await it before a request is parsed and asked about."""
        self._asker = Asker(lease=lease, estimator=estimator, clock=clock)
        self._books = Books(
            lease=lease,
            learning=learning,
            telemetry=telemetry,
            clock=clock,
            freed=self._freed,
            routed=lambda decision, taken, broken: self._attempts.routed(decision, taken, broken=broken),
        )
        unreachable, health, incapable = Unreachable(clock), Health(), Incapable(clock)
        templates = Templates(
            lease=lease, clock=clock, telemetry=telemetry, raised=lambda: self._batcher.look_anew()
        )
        self._attempts = Attempts(
            lease=lease,
            health=health,
            templates=templates,
            incapable=incapable,
            clock=clock,
            telemetry=telemetry,
        )
        self._batcher = Batcher(
            lease=lease,
            estimator=estimator,
            keys=keys,
            templates=templates,
            incapable=incapable,
            leave_alone=unreachable.leave_alone,
            health=health,
            release=lambda decision: self.release([decision]),
            clock=clock,
            telemetry=telemetry,
            draw=draw,
        )
        self._offline = OfflineBatches(
            lease=lease,
            batcher=self._batcher,
            note=self._books.note,
            release=self.release,
            clock=clock,
            telemetry=telemetry,
        )
        self._pool = Pool(connect_timeout=CONNECT_TIMEOUT, clock=clock, dialer=dialer)
        self._judging = Judging(
            lease=lease,
            batcher=self._batcher,
            pool=self._pool,
            keys=keys,
            release=self.release,
            plugin=JudgePlugins().find,
            scored=self._books.judged,
            attempts=self._attempts,
            clock=clock,
            telemetry=telemetry,
            draw=draw,
        )
        self._in_flight = InFlight(
            held=lambda: self._books.unsettled,
            abandoned=lambda: not settler() and self._books.only_routed,
        )
        self._serving = Serving(
            lease=lease,
            estimator=estimator,
            learning=learning,
            keys=keys,
            books=self._books,
            batcher=self._batcher,
            decide=self.decide,
            pool=self._pool,
            unreachable=unreachable,
            attempts=self._attempts,
            judging=self._judging,
            in_flight=self._in_flight,
            telemetry=telemetry,
            clock=clock,
        )

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    @property
    def unsettled(self) -> int:
        return self._books.unsettled

    def missing_keys(self) -> int:
        """Return how many API keys the fleet names that this pod does not have."""
        fleet = self._lease.fleet
        return self._keys.missing(fleet) if fleet is not None else 0

    @property
    def ready(self) -> bool:
        """Whether requests would be accepted now, if only to be told that there is no lease."""
        return not self._in_flight.draining

    @property
    def max_body(self) -> int:
        """Bytes that a request may have."""
        policy = self._lease.policy
        return policy.limits.max_body if policy is not None else DEFAULT_MAX_BODY

    @property
    def max_request(self) -> float:
        """Seconds that a request may take."""
        policy = self._lease.policy
        return policy.limits.max_request if policy is not None else DEFAULT_MAX_REQUEST

    def models(self) -> tuple[str, ...]:
        """Return what a request may name as its model. Raises Failure without a lease."""
        fleet, policy = self._lease.fleet, self._lease.policy
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        permitted = [model.name for model in fleet.models if policy.models.permits(model.name)]
        return (AUTO, *policy.aliases, *[name for name in permitted if name not in policy.aliases])

    def model(self, name: str) -> str:
        """Return `name` if a request may name it. Raises Failure without a lease or such a model."""
        if name in self.models():
            return name
        assert self._lease.fleet is not None  # noqa: S101 - `models` has looked
        known_model(name, self._lease.fleet)
        problem = f"the policy keeps requests from the model {name!r}; use {AUTO!r}"
        raise Failure(Fault.NOT_FOUND, "ModelNotAllowed", problem, field="model")

    def ask(
        self, call: Call, headers: Mapping[str, str], *, remaining: float | None, routed: bool = False
    ) -> Ask:
        """Return what is asked, with its rule, tier, task and deadline. Raises Failure when it can never be
        served.

        `headers` have lower-case names; `remaining` is the caller's deadline in seconds from now.
        """
        if self._in_flight.draining:
            raise shutting_down()
        return self._asker.ask(call, headers, remaining=remaining, routed=routed)

    async def decide(self, ask: Ask) -> Decision:
        """Return a decision that holds its slot and money until it is settled. Raises Failure."""
        with self._in_flight.busy():
            try:
                decision = await self._batcher.decide(ask)
            except Failure as failure:
                self._telemetry.refused(failure.reason)
                raise
            self._books.note(decision)
            if not ask.earlier:
                self._learning.asked(ask)
            return decision

    async def decide_all(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        """Assign an offline batch jointly; outcomes in the order of `asks`. Raises Failure."""
        with self._in_flight.busy():
            outcomes, certificate = await self._offline.decide(asks)
            for outcome in outcomes:
                if isinstance(outcome, Failure):
                    self._telemetry.refused(outcome.reason)
            return outcomes, certificate

    def serve(self, ask: Ask, *, stream: bool) -> AbstractAsyncContextManager[Exchange]:
        """Decide and forward, and again elsewhere, until there is something to relay; the body relays it.

        Leaving it, however, settles the request. Raises Failure.
        """
        return self._serving.serve(ask, stream=stream)

    def settle(self, decision_id: str, usage: Usage | None, *, broken: bool = False) -> Settled:
        """Book a routed decision by what it used; None: it never reached the model. Raises Failure.

        `broken`: the model failed the request, as the caller says.
        """
        return self._books.settle_routed(decision_id, usage, broken=broken)

    def release(self, decisions: Iterable[Decision]) -> None:
        """Give back what decisions hold that were never sent to a model."""
        self._books.release(decisions)

    def feedback(self, said: Feedback) -> Counted:
        """Count what is said of an answer, once per decision. Raises Failure."""
        return self._books.feedback(said)

    def explain(self, decision_id: str) -> Entry:
        """Return a recent decision. Raises Failure."""
        return self._books.explain(decision_id)

    async def run(self) -> None:
        """Follow the lease, and expire what nobody settled, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._batcher.run())
            tasks.create_task(self._keep_house())
            tasks.create_task(self._estimator.run(self._lease))
            tasks.create_task(self._judging.run())
            tasks.create_task(watch(self._clock, self._telemetry.loop_lag))

    async def drain(self, grace: float) -> bool:
        """Accept nothing more and wait until nothing is in flight or unsettled; False: time was up.

        What is left then ends with an error. Decisions that nobody is left to settle are not waited for.
        """
        self._in_flight.draining = True
        self._telemetry.draining()
        self._judging.stop()
        if await self._in_flight.ended(grace):
            return True
        self._batcher.shed(shutting_down)
        self._in_flight.end()
        await self._in_flight.ended(LAST_WORDS)
        return False

    async def close(self) -> None:
        """Refuse what still waits, wait for cancelled requests' settlement and close all connections."""
        self._in_flight.draining = True
        self._batcher.shed(shutting_down)
        await self._judging.stopped()
        await self._serving.close()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self._pool.sweep()
            self._books.expire()
            self._attempts.look()
            self._in_flight.look()
            self._telemetry.lease(self._lease.holding, self._clock())
            self._learning.tell()
            self._telemetry.keys_missing(self.missing_keys())

    def _freed(self) -> None:
        """A slot or money came back."""
        self._batcher.freed()
        self._in_flight.rest()
