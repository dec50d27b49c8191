"""Stage forward, its books: every decision from when it is taken until it is settled, and what is said of it.

In: decisions, what they used, feedback and judges' scores. Out: settled reservations of the lease, and what
`Explain` may ask for later. `router` and `serving` are who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelfleet_core.values import NanoUsd, usd

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.attempts import SETTLED_AS_ERROR
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.explain import DecisionLog, Entry
from modelfleet_sidecar.failures import Failure, Fault, bad_field
from modelfleet_sidecar.feedback import Feedback
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.telemetry import Telemetry

NOT_SENT = "NotSent"
"""Why a routed decision came to nothing: its caller gave it back."""


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


class Books:
    """Decisions that are open, and the last 10,000 that are settled."""

    def __init__(
        self,
        *,
        lease: Lease,
        learning: Learning,
        telemetry: Telemetry,
        clock: Callable[[], float],
        freed: Callable[[], None],
        routed: Callable[[Decision, float, bool], None],
    ) -> None:
        """`freed` is called when a slot or money came back; `routed` hears of a routed decision, before it is
        settled, when it was taken and whether the model failed it."""
        self._lease = lease
        self._learning = learning
        self._telemetry = telemetry
        self._clock = clock
        self._freed = freed
        self._routed = routed
        self._decisions = DecisionLog()
        self._open: dict[int, Decision] = {}
        """Decisions not settled yet, by reservation."""
        self._taken: dict[int, float] = {}
        """When those of them were that are routed."""

    @property
    def unsettled(self) -> int:
        return len(self._open)

    @property
    def only_routed(self) -> bool:
        """Whether all that is open is to be settled by callers, not by the sidecar."""
        return all(one.settle_within is not None for one in self._open.values())

    def note(self, decision: Decision) -> None:
        self._open[decision.reservation] = decision
        if decision.settle_within is not None:
            self._taken[decision.reservation] = self._clock()
        self._decisions.add(decision)
        self._telemetry.decided(decision)

    def settle(self, decision: Decision, actual: NanoUsd | None) -> NanoUsd:
        """Book a decision's cost (None: its reserve), free its slot, return what was charged. Idempotent."""
        settlement = self._lease.holding.settle(decision.reservation, actual, self._clock())
        if self._close(decision.reservation) is None or not settlement.first:
            entry = self._decisions.find(decision.id)
            return entry.cost if entry is not None and entry.cost is not None else NanoUsd(0)
        self._decisions.settled(decision.id, settlement.charged)
        self._telemetry.settled(decision, settlement.charged, expired=False)
        if settlement.excess:
            self._telemetry.excess(decision, settlement.excess)
        self._freed()
        return settlement.charged

    def release(self, decisions: Iterable[Decision]) -> None:
        """Give back what decisions hold that were never sent to a model."""
        for decision in decisions:
            self._lease.holding.cancel(decision.reservation, self._clock())
            if self._close(decision.reservation) is not None:
                self._decisions.settled(decision.id, NanoUsd(0))
        self._freed()

    def expire(self) -> None:
        """Settle at its reserve what its callers did not settle in time."""
        for reservation, settlement in self._lease.holding.expire(self._clock()):
            decision = self._close(reservation.id)
            if decision is not None:
                self._decisions.settled(decision.id, settlement.charged)
                self._telemetry.settled(decision, settlement.charged, expired=True)

    def answered(self, decision: Decision, answer_id: str, usage: Usage) -> None:
        """Remember how the server named a whole answer, and what that used."""
        self._decisions.answered(decision.id, answer_id, usage)

    def failed(self, decision_id: str, reason: str) -> None:
        """Remember how a decision ended."""
        self._decisions.failed(decision_id, reason)

    def settle_routed(self, decision_id: str, usage: Usage | None, *, broken: bool = False) -> Settled:
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
            if broken:
                self._hear(entry.decision, broken=True)
            self.release((entry.decision,))
            self._decisions.failed(decision_id, NOT_SENT)
            return Settled(NanoUsd(0), repeated=False)
        actual = entry.decision.pricing.cost(usage.input_tokens, usage.output_tokens, usage.cached_tokens)
        if actual > entry.decision.reserved:
            raise bad_field(
                "usage",
                f"costs {usd(actual):.9f} USD, more than the {usd(entry.decision.reserved):.9f} USD that"
                " the decision reserved for its prompt and max_output_tokens; send the counts that the"
                " model server billed (the reserve stays held until then), and where its prompt has more,"
                " declare templateTokens of the model in the fleet",
            )
        self._hear(entry.decision, broken=broken)
        cost = self.settle(entry.decision, actual)
        entry.usage = usage
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

    def judged(self, decision: Decision, score: float) -> None:
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

    def cost_bound(self, decision: Decision) -> NanoUsd:
        """Return what a decision cost, or will at most while it is not settled."""
        entry = self._decisions.find(decision.id)
        return decision.reserved if entry is None or entry.cost is None else entry.cost

    def _hear(self, decision: Decision, *, broken: bool) -> None:
        if (taken := self._taken.get(decision.reservation)) is not None:
            self._routed(decision, taken, broken)

    def _close(self, reservation: int) -> Decision | None:
        if self._taken:
            self._taken.pop(reservation, None)
        return self._open.pop(reservation, None)
