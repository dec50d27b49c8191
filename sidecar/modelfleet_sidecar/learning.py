"""Stage learn: what became of decisions, counted for the leader.

In: answers, failures, repeated requests and feedback from `router`. Out: sums in the `ExperienceLog`, which
reports tell of. Nothing here holds a text: of what was asked it keeps a hash with this process's own key.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from modelfleet_core.estimation.experience import ExperienceKey
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.values import NanoUsd, TaskName, usd

from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.repeats import asked_as
from modelfleet_sidecar.telemetry import Telemetry

REPEATED = 180.0
"""Seconds after an answer within which the same request says that it did not serve."""
MOST = 10_000


class Learning:
    """Counts for policies that learn; for others it does nothing."""

    def __init__(
        self, *, experience: ExperienceLog, clock: Callable[[], float], telemetry: Telemetry
    ) -> None:
        self._experience = experience
        self._clock = clock
        self._telemetry = telemetry
        self._answered: OrderedDict[int, tuple[float, ExperienceKey]] = OrderedDict()
        """When and what answered, by what was asked, the oldest first. Decisions may be large:
        `explain` keeps as many as there is room for, and none is kept here."""

    @property
    def remembered(self) -> int:
        """How many answers are remembered, to know their requests if they come again."""
        return len(self._answered)

    def tell(self) -> None:
        """Tell how much is counted; call it now and then."""
        self._telemetry.experience(len(self._experience))

    def asked(self, ask: Ask) -> None:
        """Look whether a request was answered a moment ago."""
        before = self._answered.pop(asked_as(ask), None)
        if before is not None and self._clock() - before[0] <= REPEATED:
            self._experience.retried(before[1])
            self._telemetry.repeated(before[1].model)

    def answered(self, decision: Decision, cost: NanoUsd, *, truncated: bool) -> None:
        """Count a whole answer; `truncated`: by our limit of tokens."""
        if truncated:
            self._telemetry.truncated(decision)
        if not decision.grounds.learns:
            return
        key = _key(decision)
        self._experience.answered(key, decision.quality, usd(cost))
        if truncated:
            self._experience.truncated(key)
        now = self._clock()
        self._answered[decision.grounds.asked_as] = (now, key)
        self._answered.move_to_end(decision.grounds.asked_as)
        while len(self._answered) > MOST or now - next(iter(self._answered.values()))[0] > REPEATED:
            self._answered.popitem(last=False)

    def failed(self, decision: Decision) -> None:
        """Count an attempt that its model server failed."""
        if decision.grounds.learns:
            self._experience.failed(_key(decision))

    def scored(self, decision: Decision, score: float) -> None:
        """Learn from a user's score of an answer, if the base of its estimate is still in force."""
        if (answer := self._answer(decision)) is not None:
            self._experience.scored(answer, score)

    def judged(self, decision: Decision, score: float) -> None:
        """Learn from the judge's score in the same way."""
        if (answer := self._answer(decision)) is not None:
            self._experience.judged(answer, score)

    def compared(self, decision: Decision, user: float, judge: float) -> None:
        """Count an answer that user and judge have both scored."""
        if decision.grounds.learns:
            self._experience.compared(_key(decision), user, judge)

    def _answer(self, decision: Decision) -> Answer | None:
        """Return what a score of an answer teaches by; None: nothing."""
        grounds = decision.grounds
        if (
            not grounds.learns
            or grounds.likeness is None
            or grounds.estimator_version != self._experience.estimator_version
        ):
            return None
        return Answer(_key(decision), grounds.likeness.embedding, grounds.base, decision.quality)


def _key(decision: Decision) -> ExperienceKey:
    return ExperienceKey(
        task=TaskName(decision.task),
        rule=decision.rule,
        model=decision.variant.model,
        group=decision.grounds.group,
    )
