"""Stage forward, its shell: decide and send, and again elsewhere, until there is something to relay.

In: `Ask`s from `router`. Out: `Exchange`s that have begun; what became of each attempt goes to `books`, to
telemetry and to what is learned.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from modelfleet_core.policy import Timeouts
from modelfleet_core.values import TaskName

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.attempts import Attempts
from modelfleet_sidecar.batch import Batcher
from modelfleet_sidecar.books import Books
from modelfleet_sidecar.connection import Target
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.estimates import LiveEstimator, Timing
from modelfleet_sidecar.exchange import Exchange
from modelfleet_sidecar.failures import UNREACHABLE, Failure, late, shutting_down
from modelfleet_sidecar.forward import Forwarder
from modelfleet_sidecar.in_flight import InFlight
from modelfleet_sidecar.judge import Judging
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.retry import GONE, RetryBudget, anywhere, next_attempt, pause_after
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.unreachable import Unreachable
from modelfleet_sidecar.upstream import Pool
from modelfleet_sidecar.upstream_errors import TIMED_OUT

CLOCKS_AGREE = 0.05
"""Seconds by which the event loop may ring before our own clock says so."""


class Serving:
    """Requests that the sidecar forwards itself."""

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: LiveEstimator,
        learning: Learning,
        keys: ApiKeys,
        books: Books,
        batcher: Batcher,
        decide: Callable[[Ask], Awaitable[Decision]],
        pool: Pool,
        unreachable: Unreachable,
        attempts: Attempts,
        judging: Judging,
        in_flight: InFlight,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        """`decide` returns a decision that holds its slot and money until it is settled."""
        self._lease = lease
        self._estimator = estimator
        self._learning = learning
        self._books = books
        self._batcher = batcher
        self._decide = decide
        self._pool = pool
        self._unreachable = unreachable
        self._attempts = attempts
        self._retries = RetryBudget(clock())
        self._judging = judging
        self._in_flight = in_flight
        self._telemetry = telemetry
        self._clock = clock
        self._forwarder = Forwarder(
            pool=pool,
            settle=books.settle,
            release=books.release,
            keys=keys,
            clock=clock,
            noted=self._answered,
            attempts=attempts,
        )

    @asynccontextmanager
    async def serve(self, ask: Ask, *, stream: bool) -> AsyncIterator[Exchange]:
        """Decide and forward, and again elsewhere, until there is something to relay; the body relays it.

        Leaving it, however, settles the request. Raises Failure.
        """
        outcome = "InternalError"
        decision: Decision | None = None
        self._retries.asked(ask.arrived)
        judge = self._judging.choose()
        try:
            with self._in_flight.busy():
                decision = await self._decide(ask)  # which keeps the deadline itself, and says what was short
                relaying = False
                while not relaying:
                    spoken = self._judging.listen(judge, decision)
                    try:
                        async with (
                            self._in_flight.within(ask.deadline - self._clock()),
                            self._forwarder.open(
                                decision,
                                ask.call,
                                stream=stream,
                                timeouts=self._timeouts,
                                spoken=spoken,
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

    @property
    def _timeouts(self) -> Timeouts:
        policy = self._lease.policy
        return policy.fallback.timeouts if policy is not None else Timeouts()

    def _lives(self, decision: Decision, failure: Failure) -> bool:
        """Return whether a server that broke a request off still serves others: only this one avoids it."""
        if failure.reason == TIMED_OUT:
            return True
        target = Target.parse(decision.slot, decision.certified)
        return failure.reason != UNREACHABLE and self._pool.reaches(target)

    def _answered(self, exchange: Exchange, timing: Timing) -> None:
        """Take note of a whole answer, before its caller has the end of it."""
        decision = exchange.decision
        assert exchange.receipt is not None  # noqa: S101 - it was settled just before
        used = exchange.receipt.usage
        self._books.answered(decision, exchange.answer_id, used)
        self._learning.answered(decision, exchange.receipt.cost, truncated=exchange.cut_by_us)
        size = used.output_tokens if decision.max_output_tokens else used.input_tokens
        self._attempts.whole(decision, timing.whole, size)
        if exchange.usage is not None and decision.max_output_tokens:
            # Embeddings have no output and tell nothing of the pace and length of texts.
            self._estimator.answered(
                TaskName(decision.task),
                decision.variant,
                decision.grounds.load,
                exchange.usage.output_tokens,
                timing,
            )

    def _failed(self, ask: Ask, decision: Decision, failure: Failure) -> None:
        """Remember how an attempt ended, and tell the caller which one it was."""
        self._books.failed(decision.id, failure.reason)
        if failure.retry_on is not None and not failure.lacks:
            self._learning.failed(decision)
        failure.attempts, failure.decision_id = len(ask.earlier) + 1, decision.id

    async def _decide_again(self, ask: Ask, failed: Decision, failure: Failure) -> tuple[Ask, Decision]:
        """Return what to try next after a failure, decided; raises that failure where there is nothing."""
        policy = self._lease.policy
        if policy is None:
            raise failure
        again = next_attempt(ask, failed, failure, policy.fallback, self._books.cost_bound(failed))
        if again is None:
            raise failure
        try:
            elsewhere = self._batcher.elsewhere(again)
        except Failure:  # its model has left the fleet meanwhile, or the lease is over
            raise failure from None
        pause = pause_after(again, failure)
        if not elsewhere and pause is None:
            raise failure
        if not self._retries.take(failure, self._clock()):
            self._telemetry.retry_withheld(failure)
            raise failure
        self._telemetry.retried(failure)
        try:
            if elsewhere or pause is None:
                return again, await self._decide(again)
            try:
                async with asyncio.timeout(pause):
                    return again, await self._decide(again)
            except TimeoutError:
                again = again if self._batcher.elsewhere(again) else anywhere(again)
                return again, await self._decide(again)
        except Failure as refusal:
            refusal.attempts, refusal.decision_id = len(again.earlier), failed.id
            refusal.message += f" (after {failure.reason} of {failed.variant})"
            raise

    async def close(self) -> None:
        """Wait for cancelled requests' settlement and close all connections."""
        await self._forwarder.close()
