"""Stage learn, optional: a share of the answers is scored by a judge, after their callers have them.

In: answers of requests that were chosen before they were answered. Out: scores to `Learning`, beside those
of users. A judge's model is asked within the same lease as users' requests, on an account of its own, in
capacity that users leave free; a plug-in runs in a thread. Nothing here delays or fails a caller: what can
not be scored soon is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from modelfleet_core.estimation.profile import read
from modelfleet_core.policy import Judge, Policy, Tier
from modelfleet_core.values import ModelName, NanoUsd, TierName

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.batch import Batcher
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.exchange import Exchange
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.forward import Forwarder, Hearing
from modelfleet_sidecar.judge_prompt import MAX_ANSWER, ends_of, grading, score_in
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.plugins import JudgePlugin
from modelfleet_sidecar.spoken import Spoken
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.upstream import Pool

log = logging.getLogger(__name__)

MOST_WAITING = 100
"""Answers that wait for the judge; of more the newest are dropped."""
PATIENCE = 10.0
"""Seconds that one waits for a free slot and money of the judge's account."""
LONGEST = 30.0
"""Seconds for all of one score."""
WEIGHT = 1e-6
"""Of the policy's lightest tier: anybody goes first."""
TIER = TierName("(judge)")
"""No tier of a policy, for no floor is the judge's."""


class Outcome(Enum):
    """What became of an answer that was chosen."""

    SCORED = "Scored"
    UNPARSABLE = "Unparsable"
    """The judge said something else than one number; nothing is guessed."""
    NO_SCORE = "NoScore"
    """The plug-in had none, or one outside 0 to 1."""
    OWN_MODEL = "OwnModel"
    """The judge's own model gave the answer: judges favour what they wrote themselves."""
    NO_TEXT = "NoText"
    """The answer has no text, such as a call of a tool."""
    QUEUE_FULL = "QueueFull"
    NO_CAPACITY = "NoCapacity"
    """Users needed the slots, or the judge's account was empty."""
    FAILED = "Failed"
    """The judge's model, or the plug-in, failed."""
    SWITCHED_OFF = "SwitchedOff"
    """The policy's judge changed before the answer's turn came."""


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to be scored."""

    decision: Decision
    judge: Judge
    """As the policy had it when the answer was chosen."""
    question: str
    answer: str
    cut: bool


class Judging:
    """Chooses answers and has them scored, one after the other."""

    def __init__(
        self,
        *,
        lease: Lease,
        batcher: Batcher,
        pool: Pool,
        keys: ApiKeys,
        release: Callable[[Iterable[Decision]], None],
        plugin: Callable[[str], JudgePlugin | None],
        scored: Callable[[Decision, float], None],
        attempts: Hearing,
        clock: Callable[[], float],
        telemetry: Telemetry,
        draw: Callable[[], float],
    ) -> None:
        """`release` gives back what decisions hold that were not sent; `plugin` finds one by its name;
        `scored` hears of each score; `draw` returns random numbers, uniform in [0, 1)."""
        self._lease = lease
        self._batcher = batcher
        self._forwarder = Forwarder(
            pool=pool,
            settle=self._settle,
            release=release,
            keys=keys,
            clock=clock,
            noted=_unheard,
            attempts=attempts,
        )
        self._plugin = plugin
        self._scored = scored
        self._clock = clock
        self._telemetry = telemetry
        self._draw = draw
        self._cases: asyncio.Queue[Case] = asyncio.Queue(MOST_WAITING)
        self._task: asyncio.Task[NoReturn] | None = None
        self._asking: asyncio.Future[float | None] | None = None
        """Of a plug-in, whose thread can not be stopped."""

    def choose(self) -> Judge | None:
        """Return who shall score the answer to a new request; None: nobody."""
        policy = self._lease.policy
        if policy is None or policy.judge is None or self._draw() >= policy.judge.share:
            return None
        return policy.judge

    def listen(self, judge: Judge | None, decision: Decision) -> Spoken | None:
        """Return what is to collect the answer of a chosen request; None: nothing is."""
        if judge is None:
            return None
        if decision.variant.model == judge.model:
            self._telemetry.judged(Outcome.OWN_MODEL.value)
            return None
        return Spoken(MAX_ANSWER)

    def answered(self, judge: Judge, ask: Ask, decision: Decision, spoken: Spoken) -> None:
        """Let a whole answer, which its caller has, wait for the judge."""
        if not spoken.text.strip():
            self._telemetry.judged(Outcome.NO_TEXT.value)
            return
        case = Case(decision, judge, ends_of(ask.reading.text), spoken.text, spoken.cut)
        try:
            self._cases.put_nowait(case)
        except asyncio.QueueFull:
            self._telemetry.judged(Outcome.QUEUE_FULL.value)
        self._telemetry.judge_queue(self._cases.qsize())

    async def run(self) -> NoReturn:
        """Score what waits, until cancelled or stopped."""
        self._task = asyncio.current_task()
        while True:
            case = await self._cases.get()
            self._telemetry.judge_queue(self._cases.qsize())
            try:
                outcome = await self._score(case)
            except Exception as error:  # noqa: BLE001 - a judge must never end the sidecar
                self._telemetry.bug("judge", error)
                outcome = Outcome.FAILED
            self._telemetry.judged(outcome.value)

    def stop(self) -> None:
        """Score nothing more, for good."""
        if self._task is not None:
            self._task.cancel()

    async def stopped(self) -> None:
        """Wait until a stopped judge holds nothing of the lease."""
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._forwarder.settled()

    async def _score(self, case: Case) -> Outcome:
        policy = self._lease.policy
        if policy is None or policy.judge != case.judge:
            return Outcome.SWITCHED_OFF
        try:
            async with asyncio.timeout(LONGEST):
                if case.judge.model is None:
                    score = await self._plugged_in(case)
                else:
                    score = await self._model(case.judge.model, case, policy)
        except UnscoredError as unscored:
            return unscored.outcome
        except Failure as failure:
            log.info("the judge's model could not score an answer: %s", failure.reason)
            return Outcome.FAILED
        except TimeoutError:
            log.info("the judge took over %g s for an answer", LONGEST)
            return Outcome.FAILED
        self._scored(case.decision, score)
        return Outcome.SCORED

    # A model.

    async def _model(self, model: ModelName, case: Case, policy: Policy) -> float:
        """Return the model's score. Raises Failure and UnscoredError."""
        call = parse_fields(grading(model, case.question, case.answer, cut=case.cut))
        now = self._clock()
        lightest = min(tier.weight for tier in policy.tiers)
        ask = Ask(
            call=call,
            reading=read(call.texts),
            tier=Tier(TIER, WEIGHT * lightest, {}),
            task=None,
            arrived=now,
            deadline=now + LONGEST,
            judging=True,
        )
        decision = await self._batcher.decide_aside(ask, PATIENCE)
        if decision is None:
            raise UnscoredError(Outcome.NO_CAPACITY)
        async with self._forwarder.open(
            decision, call, stream=False, timeouts=policy.fallback.timeouts
        ) as exchange:
            await exchange.begin()
            score = score_in(exchange.answer)
        if score is None:
            raise UnscoredError(Outcome.UNPARSABLE)
        return score

    def _settle(self, decision: Decision, actual: NanoUsd | None) -> NanoUsd:
        settlement = self._lease.holding.settle(decision.reservation, actual, self._clock())
        if settlement.first:
            self._telemetry.judge_paid(settlement.charged)
            if settlement.excess:
                self._telemetry.excess(decision, settlement.excess)
            self._batcher.look_again()
        return settlement.charged

    # A plug-in.

    async def _plugged_in(self, case: Case) -> float:
        """Return the plug-in's score. Raises UnscoredError."""
        if self._asking is not None and not self._asking.done():
            raise UnscoredError(Outcome.NO_CAPACITY)  # an earlier answer keeps it, over its time
        plugin = self._plugin(case.judge.plugin)
        if plugin is None:
            raise UnscoredError(Outcome.FAILED)
        self._asking = _in_thread(plugin, case.question, case.answer)
        try:
            score: object = await asyncio.shield(self._asking)
        except _PluginError as error:
            log.warning("the judge %s failed with %s", case.judge.plugin, error)
            raise UnscoredError(Outcome.FAILED) from None
        if isinstance(score, bool) or not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
            raise UnscoredError(Outcome.NO_SCORE)
        return float(score)


class UnscoredError(Exception):
    """There is no score of an answer, and `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


class _PluginError(Exception):
    """A plug-in failed with an error of this type."""


def _unheard(_exchange: Exchange, _timing: object) -> None:
    """Learn nothing from a judge's own answers: they are no user's."""


def _in_thread(plugin: JudgePlugin, question: str, answer: str) -> asyncio.Future[float | None]:
    """Return the plug-in's score to come, or _PluginError. Its thread is a daemon: one that hangs must not
    keep the sidecar from its end."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[float | None] = loop.create_future()
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody may have left

    def end(score: float | None, error: _PluginError | None) -> None:
        if error is None:
            asked.set_result(score)
        else:
            asked.set_exception(error)

    def work() -> None:
        score: float | None = None
        error: _PluginError | None = None
        try:
            score = plugin.score(question, answer)
        except Exception as raised:  # noqa: BLE001 - others wrote it
            error = _PluginError(type(raised).__name__)  # its text may quote what it was asked
        with contextlib.suppress(RuntimeError):  # the sidecar has ended meanwhile
            loop.call_soon_threadsafe(end, score, error)

    threading.Thread(target=work, name="judge", daemon=True).start()
    return asked
