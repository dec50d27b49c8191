"""The one object behind both APIs: ask -> decide -> forward -> settle, and what may be asked about it later.

In: `ChatCall`s with their headers and time left. Out: `Decision`s, `Exchange`s, receipts, explanations.
`http_api` and `grpc_api` only translate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.estimation.profile import read
from modelfleet_core.estimation.urgency import urgency
from modelfleet_core.policy import Policy
from modelfleet_core.rules import Asking, Rules
from modelfleet_core.values import NanoUsd, TaskName, usd

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.batch import Batcher
from modelfleet_sidecar.chat import AUTO, ChatCall, with_params
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.estimates import LiveEstimator, Timing
from modelfleet_sidecar.explain import DecisionLog, Entry
from modelfleet_sidecar.failures import UNREACHABLE, Failure, Fault, bad_field, late, shutting_down
from modelfleet_sidecar.feedback import Feedback
from modelfleet_sidecar.forward import Exchange, Forwarder
from modelfleet_sidecar.in_flight import InFlight
from modelfleet_sidecar.judge import Judging
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.offline import OfflineBatches
from modelfleet_sidecar.plugins import JudgePlugins
from modelfleet_sidecar.prospect import known_model
from modelfleet_sidecar.refusals import no_lease
from modelfleet_sidecar.retry import GONE, anywhere, next_attempt, pause_after
from modelfleet_sidecar.sse import Usage
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.unreachable import Unreachable
from modelfleet_sidecar.upstream import Pool, Target

TASK_HEADER = "x-modelfleet-task"
DEFAULT_MAX_BODY = 16 * 1024 * 1024
DEFAULT_MAX_REQUEST = 600.0
CONNECT_TIMEOUT = 2.0
HOUSEKEEPING = 1.0
CLOCKS_AGREE = 0.05
"""Seconds by which the event loop may ring before our own clock says so."""
SETTLED_AS_ERROR = "SettledAsError"
"""Why a routed decision failed: its caller said so."""
NOT_SENT = "NotSent"
"""Why a routed decision came to nothing: its caller gave it back."""
LAST_WORDS = 0.5
"""Seconds that requests get to tell their callers that the sidecar goes down."""


@dataclass(frozen=True, slots=True)
class Settled:
    cost: NanoUsd
    repeated: bool
    """It was settled before; nothing was booked again."""
    expired: bool = False
    """That was because `settle_within` was over."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a feedback."""

    decision_id: str
    score: float
    """As counted."""
    repeated: bool
    """The decision had its feedback before; nothing was counted again."""


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
        draw: Callable[[], float],
    ) -> None:
        """`settler` tells whether anyone is left who could settle routed decisions, for the end; `draw`
        returns random numbers, uniform in [0, 1), for exploration."""
        self._lease = lease
        self._estimator = estimator
        self._learning = learning
        self._keys = keys
        self._telemetry = telemetry
        self._clock = clock
        self._pool = Pool(connect_timeout=CONNECT_TIMEOUT, clock=clock)
        self._forwarder = Forwarder(
            pool=self._pool,
            settle=self._settle,
            release=self.release,
            keys=keys,
            clock=clock,
            noted=self._answered,
        )
        self._unreachable = Unreachable(clock)
        self._batcher = Batcher(
            lease=lease,
            estimator=estimator,
            keys=keys,
            leave_alone=self._unreachable.leave_alone,
            release=lambda decision: self.release([decision]),
            clock=clock,
            telemetry=telemetry,
            draw=draw,
        )
        self._offline = OfflineBatches(
            lease=lease,
            batcher=self._batcher,
            note=self._note,
            release=self.release,
            clock=clock,
            telemetry=telemetry,
        )
        self._judging = Judging(
            lease=lease,
            batcher=self._batcher,
            pool=self._pool,
            keys=keys,
            release=self.release,
            plugin=JudgePlugins().find,
            scored=self._judged,
            clock=clock,
            telemetry=telemetry,
            draw=draw,
        )
        self._rules: tuple[Policy | None, Rules] = (None, Rules(()))
        """Of the policy that they are of."""
        self._decisions = DecisionLog()
        self._open: dict[int, Decision] = {}
        """Decisions not settled yet, by reservation."""
        self._in_flight = InFlight(held=lambda: len(self._open), abandoned=lambda: self._abandoned(settler))

    @property
    def waiting(self) -> int:
        return self._batcher.waiting

    @property
    def unsettled(self) -> int:
        return len(self._open)

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
        if self._lease.fleet is None:
            raise no_lease(self._lease.refusal)
        return (AUTO, *(model.name for model in self._lease.fleet.models))

    def model(self, name: str) -> str:
        """Return `name` if a request may name it. Raises Failure without a lease or such a model."""
        if self._lease.fleet is None:
            raise no_lease(self._lease.refusal)
        known_model(name, self._lease.fleet)
        return name

    def ask(
        self, call: ChatCall, headers: Mapping[str, str], *, remaining: float | None, routed: bool = False
    ) -> Ask:
        """Return what is asked, with its rule, tier, task and deadline. Raises Failure when it can never be
        served.

        `headers` have lower-case names; `remaining` is the caller's deadline in seconds from now.
        """
        fleet, policy = self._lease.fleet, self._lease.policy
        if self._in_flight.draining:
            raise shutting_down()
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        known_model(call.model, fleet)
        reading = read(call.texts)
        matched = self._rules_of(policy).first(
            Asking(reading.text, reading.subject.script, reading.input_tokens, headers)
        )
        if matched is not None:
            call = with_params(call, matched.rule.params)
        if call.unbounded and policy.budget is not None:
            raise Failure(
                Fault.BAD_REQUEST,
                "UnboundedCost",
                f"{call.unbounded} leaves the cost of the request without an upper bound, which the budget of"
                f" policy {policy.key} needs",
                field=call.unbounded,
            )
        now = self._clock()
        allowed = policy.limits.max_request
        left = allowed if remaining is None else min(remaining, allowed)
        if left <= 0:
            raise late(0.0)
        named = headers.get(TASK_HEADER)
        tasks = {task for model in fleet.models for task in model.quality.by_task} | {*self._estimator.tasks}
        ruled = matched.rule.task if matched is not None else None
        return Ask(
            call=call,
            reading=reading,
            tier=policy.tier_of(headers),
            # Only tasks that fleet or estimator tell apart: others change no estimate, and callers could make
            # up any number of them.
            task=TaskName(named) if named in tasks else ruled,
            arrived=now,
            deadline=now + left,
            tenant=policy.tenant_of(headers),
            matched=matched,
            urgency=urgency(
                stream=call.stream,
                flex=call.fields.get("service_tier") == "flex",
                remaining=remaining,
                words=reading.signs.words,
            ),
            group=policy.group_of(headers),
            features=self._estimator.features(reading.text, policy),
            routed=routed,
        )

    def _rules_of(self, policy: Policy) -> Rules:
        """Return the rules of the policy in force, compiled when it came."""
        of, rules = self._rules
        if of is not policy:
            rules = Rules(policy.rules)
            self._rules = (policy, rules)
        return rules

    async def decide(self, ask: Ask) -> Decision:
        """Return a decision that holds its slot and money until it is settled. Raises Failure."""
        with self._in_flight.busy():
            try:
                decision = await self._batcher.decide(ask)
            except Failure as failure:
                self._telemetry.refused(failure.reason)
                raise
            self._note(decision)
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

    @asynccontextmanager
    async def serve(self, ask: Ask, *, stream: bool) -> AsyncIterator[Exchange]:
        """Decide and forward, and again elsewhere, until there is something to relay; the body relays it.

        Leaving it, however, settles the request. Raises Failure.
        """
        outcome = "InternalError"
        decision: Decision | None = None
        judge = self._judging.choose()
        try:
            with self._in_flight.busy():
                decision = await self.decide(ask)  # which keeps the deadline itself, and says what was short
                relaying = False
                while not relaying:
                    spoken = self._judging.listen(judge, decision)
                    try:
                        async with (
                            self._in_flight.within(ask.deadline - self._clock()),
                            self._forwarder.open(
                                decision, ask.call, stream=stream, spoken=spoken
                            ) as exchange,
                        ):
                            await exchange.begin()
                            relaying = True
                            yield exchange
                    except Failure as failure:
                        self._failed(ask, decision, failure)
                        if relaying:
                            if failure.retry_on is not None:
                                self._telemetry.cut_stream(decision)
                            raise
                        if failure.retry_on in GONE and not self._lives(decision, failure):
                            self._unreachable.refused(decision.endpoint)
                        ask, decision = await self._decide_again(ask, decision, failure)
            outcome = "Ok"
            if judge is not None and spoken is not None and exchange.receipt is not None:
                self._judging.answered(judge, ask, decision, spoken)
        except Failure as failure:
            outcome = failure.reason
            raise
        except TimeoutError:
            early = self._in_flight.draining and self._clock() < ask.deadline - CLOCKS_AGREE
            ended = shutting_down() if early else late(self._clock() - ask.arrived)
            outcome = ended.reason
            if decision is not None:
                self._failed(ask, decision, ended)
            raise ended from None
        except asyncio.CancelledError:
            outcome = "Cancelled"
            raise
        finally:
            model = decision.variant.model if decision is not None else ""
            self._telemetry.request(model, ask.tier.name, outcome, self._clock() - ask.arrived)

    def _lives(self, decision: Decision, failure: Failure) -> bool:
        """Return whether a server that broke a request off still serves others: only this one avoids it."""
        return failure.reason != UNREACHABLE and self._pool.reaches(Target.parse(decision.endpoint))

    def _answered(self, exchange: Exchange, timing: Timing) -> None:
        """Take note of a whole answer, before its caller has the end of it."""
        decision = exchange.decision
        assert exchange.receipt is not None  # noqa: S101 - it was settled just before
        self._decisions.answered(decision.id, exchange.answer_id)
        self._learning.answered(decision, exchange.receipt.cost, truncated=exchange.cut_by_us)
        if exchange.usage is not None:
            self._estimator.answered(
                TaskName(decision.task),
                decision.variant,
                decision.grounds.load,
                exchange.usage.output_tokens,
                timing,
            )

    def _failed(self, ask: Ask, decision: Decision, failure: Failure) -> None:
        """Remember how an attempt ended, and tell the caller which one it was."""
        self._decisions.failed(decision.id, failure.reason)
        if failure.retry_on is not None:
            self._learning.failed(decision)
        failure.attempts, failure.decision_id = len(ask.earlier) + 1, decision.id

    async def _decide_again(self, ask: Ask, failed: Decision, failure: Failure) -> tuple[Ask, Decision]:
        """Return what to try next after a failure, decided; raises that failure where there is nothing."""
        policy = self._lease.policy
        again = next_attempt(ask, failed, failure, policy.fallback) if policy is not None else None
        if again is None:
            raise failure
        try:
            elsewhere = self._batcher.elsewhere(again)
        except Failure:  # its model has left the fleet meanwhile, or the lease is over
            raise failure from None
        pause = pause_after(again, failure)
        if not elsewhere and pause is None:
            raise failure
        self._telemetry.retried(failure)
        try:
            if elsewhere or pause is None:
                return again, await self.decide(again)
            try:
                async with asyncio.timeout(pause):
                    return again, await self.decide(again)
            except TimeoutError:
                again = again if self._batcher.elsewhere(again) else anywhere(again)
                return again, await self.decide(again)
        except Failure as refusal:
            refusal.attempts, refusal.decision_id = len(again.earlier), failed.id
            refusal.message += f" (after {failure.reason} of {failed.variant})"
            raise

    def settle(self, decision_id: str, usage: Usage | None, *, broken: bool = False) -> Settled:
        """Book a routed decision by what it used; None: it never reached the model. Raises Failure.

        `broken`: the model failed the request, as the caller says.
        """
        entry = self.explain(decision_id)
        if entry.cost is not None:
            before = self._lease.holding.settle(entry.decision.reservation, None, self._clock())
            return Settled(entry.cost, repeated=True, expired=before.expired)
        if entry.decision.settle_within is None:
            raise bad_field(
                "decision_id",
                "is of a request that this sidecar forwards and settles itself; settle those of Route and"
                " RouteBatch only",
            )
        if usage is None:
            self.release((entry.decision,))
            self._decisions.failed(decision_id, NOT_SENT)
            return Settled(NanoUsd(0), repeated=False)
        actual = entry.decision.pricing.cost(usage.input_tokens, usage.output_tokens)
        if actual > entry.decision.reserved:
            raise bad_field(
                "usage",
                f"costs {usd(actual):.9f} USD, more than the {usd(entry.decision.reserved):.9f} USD that"
                " the decision reserved for its prompt and max_output_tokens; send the counts that the"
                " model server billed (the reserve stays held until then)",
            )
        cost = self._settle(entry.decision, actual)
        if broken:
            self._decisions.failed(decision_id, SETTLED_AS_ERROR)
            self._learning.failed(entry.decision)
        else:
            self._learning.answered(entry.decision, cost, truncated=False)
        return Settled(cost, repeated=False)

    def feedback(self, said: Feedback) -> Counted:
        """Count what is said of an answer, once per decision. Raises Failure."""
        # Whatever a model server calls its answers, the id of a decision is that decision's.
        named = self._decisions.find(said.decision_id) or self._decisions.find_answer(said.decision_id)
        entry = named or self.explain(said.decision_id)
        if entry.feedback is not None:
            return Counted(entry.decision.id, entry.feedback.score, repeated=True)
        self._decisions.scored(entry, said)
        self._telemetry.feedback(entry.decision, said)
        if not entry.failure:
            self._learning.scored(entry.decision, said.score)
            if entry.judged is not None:
                self._learning.compared(entry.decision, said.score, entry.judged)
        return Counted(entry.decision.id, said.score, repeated=False)

    def _judged(self, decision: Decision, score: float) -> None:
        """Count a judge's score of an answer."""
        self._learning.judged(decision, score)
        entry = self._decisions.find(decision.id)
        if entry is None:
            return
        entry.judged = score
        if entry.feedback is not None:
            self._learning.compared(decision, entry.feedback.score, score)

    def explain(self, decision_id: str) -> Entry:
        """Return a recent decision. Raises Failure."""
        entry = self._decisions.find(decision_id)
        if entry is None:
            raise Failure(
                Fault.NOT_FOUND,
                "DecisionNotFound",
                f"no decision {decision_id[:100]!r} is known here; send the header x-modelfleet-decision-id"
                " of an answer of this sidecar (it keeps the last 10,000 since its start)",
                field="decision_id",
            )
        return entry

    async def run(self) -> None:
        """Follow the lease, and expire what nobody settled, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._batcher.run())
            tasks.create_task(self._keep_house())
            tasks.create_task(self._estimator.run(self._lease))
            tasks.create_task(self._judging.run())

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

    def _abandoned(self, settler: Callable[[], bool]) -> bool:
        """Return whether nobody is left to settle what is not settled yet."""
        return not settler() and all(one.settle_within is not None for one in self._open.values())

    async def close(self) -> None:
        """Refuse what still waits, wait for cancelled requests' settlement and close all connections."""
        self._in_flight.draining = True
        self._batcher.shed(shutting_down)
        await self._judging.stopped()
        await self._forwarder.close()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self._pool.sweep()
            for reservation, settlement in self._lease.holding.expire(self._clock()):
                decision = self._close(reservation.id)
                if decision is not None:
                    self._decisions.settled(decision.id, settlement.charged)
                    self._telemetry.settled(decision, settlement.charged, expired=True)
            self._in_flight.look()
            self._telemetry.lease(self._lease.holding, self._clock())
            self._learning.tell()
            self._telemetry.keys_missing(self.missing_keys())

    def _note(self, decision: Decision) -> None:
        self._open[decision.reservation] = decision
        self._decisions.add(decision)
        self._telemetry.decided(decision)

    def _close(self, reservation: int) -> Decision | None:
        return self._open.pop(reservation, None)

    def _settle(self, decision: Decision, actual: NanoUsd | None) -> NanoUsd:
        settlement = self._lease.holding.settle(decision.reservation, actual, self._clock())
        if self._close(decision.reservation) is None or not settlement.first:
            entry = self._decisions.find(decision.id)
            return entry.cost if entry is not None and entry.cost is not None else NanoUsd(0)
        self._decisions.settled(decision.id, settlement.charged)
        self._telemetry.settled(decision, settlement.charged, expired=False)
        if settlement.excess:
            self._telemetry.excess(decision, settlement.excess)
        self._batcher.look_again()
        self._in_flight.rest()
        return settlement.charged

    def release(self, decisions: Iterable[Decision]) -> None:
        """Give back what decisions hold that were never sent to a model."""
        for decision in decisions:
            self._lease.holding.cancel(decision.reservation, self._clock())
            if self._close(decision.reservation) is not None:
                self._decisions.settled(decision.id, NanoUsd(0))
        self._batcher.look_again()
        self._in_flight.rest()
