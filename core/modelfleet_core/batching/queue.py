"""Stages batch and assign, as one state machine: requests wait for a place until their time is up.

In: arrivals, changes of the lease and of prices, the time. Out: `Placed` and `GivenUp`, and what to ask the
leader for. The shell keeps the timers and the threads (`modelfleet_core.batching` shows its loop).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed, Why
from modelfleet_core.batching.placing import SHUT_PATIENCE, Placer
from modelfleet_core.batching.room import LeaveAlone, Room, all_reached
from modelfleet_core.batching.solving import Batch, Solved
from modelfleet_core.batching.turns import in_turn, several, to_push_out
from modelfleet_core.batching.wanting import Claim, Joint, Wanted, claim
from modelfleet_core.batching.window import Step, Window
from modelfleet_core.batching.worth import NO_SLOT, Look
from modelfleet_core.health import Health, Shut
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Need, Want
from modelfleet_core.policy import Batching
from modelfleet_core.values import AccountName, VariantKey

DEADLINE_MARGIN = 0.02
"""Seconds that assigning and forwarding need before a request's latest start."""
LOOK_AGAIN = 0.25
"""Seconds between looks at what waits, since the loss of waiting grows with time."""
CLAIMS_ANYTHING = 2
"""Batches without a place for it after which a request asks the leader for slots of any variant."""
BUDGET_PATIENCE = 2.0
"""Seconds that a request waits for money before it is told that the budget is exhausted."""

_IDLE = Step(dispatch=False, wake_at=None)


@dataclass(slots=True, eq=False)
class _Waiting:
    candidate: Candidate
    look: Look | None = None
    looked: float = 0.0
    """When that was."""
    claim: Claim | None = None
    """What it wants of the leader; None: to be found out."""
    passed_over: int = 0
    """Batches that found no place for it."""
    counted: bool = True
    """Whether the window counts it as waiting; not while a batch is out."""


class Queue:
    """The queue of one sidecar. Tickets are the caller's names of requests; times are seconds on one clock.

    One batch is out at a time, from `due` to `commit` or `fail`. The lease's `holding` is used for
    reservations; whoever settles them calls `changed`.
    """

    def __init__(
        self,
        holding: Holding,
        batching: Batching,
        *,
        leave_alone: LeaveAlone = all_reached,
        health: Health | None = None,
    ) -> None:
        self._holding = holding
        self._batching = batching
        self._window = _window(batching)
        self.placer = Placer(holding, leave_alone=leave_alone, health=health)
        self._step = _IDLE
        self._looked = 0.0
        """When what waits was last looked at."""
        self._waiting: dict[int, _Waiting] = {}
        self._out: dict[int, _Waiting] | None = None
        """The batch that is out."""
        self._left: tuple[int, ...] = ()
        """What it left in the queue."""
        self._more = False
        """Whether some of that could have been placed."""
        self._joint: dict[int, Joint] = {}
        """Claims of joint batches that wait for slots, by their tickets."""

    def __len__(self) -> int:
        """Return how many requests wait, without the batch that is out."""
        return len(self._waiting)

    @property
    def wake_at(self) -> float | None:
        """Call `due` at this time at the latest; None: not before something happens."""
        if self._out is not None:
            return None
        again = self._looked + LOOK_AGAIN if self._waiting else None
        times = [time for time in (self._step.wake_at, again) if time is not None]
        return min(times, default=None)

    def set_prices(self, slots: Mapping[VariantKey, float], money: float) -> None:
        """Take over published prices: quality per slot-second by variant, and per USD."""
        self.placer.set_prices(slots, money)

    def follow(self, batching: Batching, now: float) -> None:
        """Take over the policy's window, unless a batch is out."""
        if batching == self._batching or self._out is not None:
            return
        self._batching = batching
        self._window = _window(batching)
        for waiting in self._waiting.values():
            waiting.counted = True
            self._take(self._window.arrive(now, waiting.candidate.latest_start))

    def arrive(self, ticket: int, candidate: Candidate, now: float) -> None:
        """A request came. A ticket must not be in use."""
        self.placer.offer(candidate)
        if not self._waiting:
            self._looked = now
        self._waiting[ticket] = _Waiting(candidate)
        self._take(self._window.arrive(now, candidate.latest_start))

    def place(self, ticket: int, candidate: Candidate, now: float) -> Placed | None:
        """Place a new request at once, while nothing binds; None: let it `arrive`."""
        if self._waiting or self._out is not None or self._window.gathers:
            return None
        placed = self.placer.place(ticket, candidate, now)
        if placed is not None:
            self._window.saw(now)
            self.placer.offer(candidate)
        return placed

    def renew(self, ticket: int, candidate: Candidate) -> bool:
        """Take a new view of a waiting request, since the fleet or the policy changed.

        Returns whether it waits; one in the batch that is out is to be renewed after `commit`.
        """
        waiting = self._waiting.get(ticket)
        if waiting is None:
            return False
        waiting.candidate, waiting.look, waiting.claim = candidate, None, None
        return True

    def leave(self, ticket: int, now: float) -> bool:
        """A request's caller went away; returns whether it was there. Nothing is held for it."""
        if self._out is not None and self._out.pop(ticket, None) is not None:
            return True
        waiting = self._waiting.pop(ticket, None)
        if waiting is not None and waiting.counted:
            self._take(self._window.leave(now))
        return waiting is not None

    def changed(self, now: float) -> None:
        """A slot or money came free, or a new grant: what was passed over may find a place."""
        if self._waiting:
            self._take(self._window.capacity_changed(now))

    def due(self, now: float) -> Batch | None:
        """Return what is to be solved and committed now; None: nothing yet.

        A batch may be empty, where nothing that waits could be placed: commit it all the same.
        """
        if self._out is not None:
            return None
        if not self._step.dispatch and self._waiting:
            if now >= self._looked + LOOK_AGAIN:
                self._looked = now
                self._take(self._window.capacity_changed(now))
            elif self._step.wake_at is not None and self._step.wake_at <= now:
                self._take(self._window.tick(now))
        if not self._step.dispatch:
            return None
        return self._pick(now)

    def _look(self, waiting: _Waiting, now: float) -> Look:
        candidate = waiting.candidate
        look = self.placer.look(candidate, now, waits=not candidate.sheds)
        waiting.look, waiting.looked, waiting.claim = look, now, None
        return look

    def _take(self, step: Step) -> None:
        """Follow the window, unless it has called for a batch already: that call stands."""
        if not self._step.dispatch:
            self._step = step

    def _pick(self, now: float) -> Batch:
        """Take the next batch out of the queue: of what has a place, the heaviest first, then the oldest."""
        self._looked = now
        self._step = _IDLE
        for _ in range(self._window.waiting):
            self._window.leave(now)  # it came after the window called for the batch, and is in it
        for waiting in self._waiting.values():
            waiting.counted = False
        most = self._batching.max_size
        tickets, candidates = list(self._waiting), [one.candidate for one in self._waiting.values()]
        if (live := self._holding.live(now)) and several(candidates):
            chosen = self._in_turn(tickets, candidates, now, most)
            self._more = bool(chosen)
        else:
            # After the lease each tier has a floor of its own, so requests are placed one by one.
            chosen, self._more = self._placeable(now, most if live else 1)
        self._out = {ticket: self._waiting.pop(ticket) for ticket in chosen}
        self._left = tuple(self._waiting)
        return self.placer.pose(
            chosen,
            [waiting.candidate for waiting in self._out.values()],
            now,
            looks=[waiting.look for waiting in self._out.values() if waiting.look is not None],
        )

    def _placeable(self, now: float, most: int) -> tuple[list[int], bool]:
        """Return the tickets of the first `most` that could be placed alone, and whether there are others."""
        order = self._order()
        if len(order) == 1:
            # It need not be looked at twice: solving finds out whether it has a place.
            self._look(self._waiting[order[0]], now)
            return order, False
        ready: list[int] = []
        if not order or self.placer.full(self._waiting[order[0]].candidate.caller, now):
            return ready, False
        for start in range(0, len(order), most + 1):
            part = order[start : start + most + 1]
            seen = [(one.candidate, self._look(one, now)) for one in map(self._waiting.__getitem__, part)]
            could = self.placer.placeable(seen, now)
            ready += [ticket for ticket, able in zip(part, could, strict=True) if able]
            if len(ready) > most:
                break
        return ready[:most], len(ready) > most

    def _in_turn(self, tickets: list[int], candidates: list[Candidate], now: float, most: int) -> list[int]:
        """Return the tickets of those that go first where several callers wait; only they are looked at."""

        def look(i: int) -> Look:
            return self._look(self._waiting[tickets[i]], now)

        room = self.placer.room(now)
        return [tickets[i] for i in in_turn(candidates, look, self.placer.turns, room, most)]

    def _order(self) -> list[int]:
        """Return the tickets of all that wait: the heaviest first, then whose caller's turn it is, then the
        oldest."""
        starts: dict[str, float] = {}
        keyed: list[tuple[float, float, float, int]] = []
        for ticket, waiting in self._waiting.items():
            one = waiting.candidate
            start = starts.get(one.caller)
            if start is None:
                start = starts[one.caller] = self.placer.turns.start(one.caller)
            keyed.append((-one.weight, start, one.arrived, ticket))
        return [ticket for *_, ticket in sorted(keyed)]

    def commit(
        self, solved: Solved, now: float, wanted: Callable[[int], bool] = lambda _ticket: True
    ) -> tuple[Outcome, ...]:
        """Reserve what was chosen, for each ticket still `wanted`; the others wait on or are given up.

        Returns an outcome for each request that waits no longer.
        """
        if self._out is None:
            raise ValueError("no batch is out: commit once what `due` returned")
        out, self._out = self._out, None
        outcomes: list[Outcome] = []
        back: list[int] = []
        answers = self.placer.commit(solved, now, lambda ticket: ticket in out and wanted(ticket))
        for ticket, placed in zip(solved.batch.tickets, answers, strict=True):
            if placed is not None:
                outcomes.append(placed)
            elif ticket in out:
                back.append(ticket)
                self._waiting[ticket] = out[ticket]
        # What was left out because the batch was full must not wait for another change.
        again = self._more and len(back) < len(answers)
        binding = bool(solved.certificate.binding) or bool(self._left)
        deadlines: list[float] = []
        room, shut = self.placer.shared_room(now), self.placer.shut(now)
        patient = now - BUDGET_PATIENCE if room is not None and not shut else math.inf
        for ticket in (*back, *self._left):
            waiting = self._waiting.get(ticket)
            if waiting is None:  # its caller left
                continue
            one = waiting.candidate
            clear = one.arrived > patient and now < one.latest_start  # as of most: it may wait
            given_up = None if clear else self._given_up(ticket, one, now, room, shut)
            if given_up is not None:
                outcomes.append(given_up)
                del self._waiting[ticket]
                continue
            waiting.passed_over += 1
            waiting.counted = True
            if waiting.passed_over == CLAIMS_ANYTHING:
                waiting.claim = None
            deadlines.append(one.latest_start)
        self._step = self._window.finish(now, binding=binding, deferred=deadlines)
        if again and not self._step.dispatch:
            self._take(self._window.capacity_changed(now))
        return tuple(outcomes)

    def fail(self) -> tuple[int, ...]:
        """Something broke: empty the queue and start anew; returns the tickets of all that waited."""
        tickets = (*(self._out or {}), *self._waiting)
        self._out = None
        self._waiting.clear()
        self._window, self._step = _window(self._batching), _IDLE
        return tickets

    def _given_up(
        self,
        ticket: int,
        candidate: Candidate,
        now: float,
        room: Room | None,
        shut: Mapping[VariantKey, Shut],
    ) -> GivenUp | None:
        """Return why a request that found no place must not wait longer; None: it may."""
        early = now - candidate.arrived < BUDGET_PATIENCE
        if shut and not (early and candidate.avoided):  # which has met it itself: its pod may be replaced
            first = self.placer.shut_until(candidate, shut, now)
            latest = min(candidate.latest_start, candidate.arrived + SHUT_PATIENCE)
            if first is not None and first.until > latest:
                return GivenUp(ticket, candidate, Why.SHUT, first.why, first.until)
        patient = early or not candidate.charges
        if room is not None and patient and now < candidate.latest_start:
            return None  # whatever it lacks, and most do not come further
        why, short = self.placer.no_place(candidate, now, room)
        if why is not Why.NO_LEASE:
            if now >= candidate.latest_start:
                why = why if candidate.sheds else Why.TOO_LATE
            elif patient or why is not Why.NO_MONEY or not self._hopeless(candidate, now):
                return None
        return GivenUp(ticket, candidate, why, short)

    def _hopeless(self, candidate: Candidate, now: float) -> bool:
        """Return whether some account covers the request not even if all that is reserved came back."""
        return self.placer.short_of(candidate, now, self.placer.reserved()) not in ("", NO_SLOT)

    def wants(self, now: float) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]:
        """Return what could be used now, slots in flight included, and what the waiting would reserve."""
        in_flight: dict[VariantKey, int] = {}
        for endpoint, slots in self._holding.in_flight().items():
            if (variant := self._holding.variant_of(endpoint)) is not None:
                in_flight[variant] = in_flight.get(variant, 0) + slots
        wanted = Wanted()
        for waiting in (*self._waiting.values(), *(self._out or {}).values()):
            wanted.add(self._claim(waiting, now))
        for joint in self._joint.values():
            wanted.add_all(joint)
        return wanted.wants(in_flight)

    def _claim(self, waiting: _Waiting, now: float) -> Claim:
        look = waiting.look
        if look is None or now - waiting.looked > LOOK_AGAIN:
            look = self._look(waiting, now)
        if waiting.claim is None:
            waiting.claim = claim(waiting.candidate, look, anything=waiting.passed_over >= CLAIMS_ANYTHING)
        return waiting.claim

    def push_out(self, caller: str) -> int | None:
        """Return the ticket of who is to be turned away so that a request of `caller` may wait instead, where
        no more may; None: nobody has more waiting than that caller."""
        return to_push_out({ticket: one.candidate for ticket, one in self._waiting.items()}, caller)

    def claim_jointly(self, ticket: int, joint: Joint | None) -> None:
        """Want slots also for a joint batch, which does not wait in the queue; None: no more."""
        if joint is None:
            self._joint.pop(ticket, None)
        else:
            self._joint[ticket] = joint


def _window(batching: Batching) -> Window:
    return Window(max_size=batching.max_size, max_wait=batching.max_wait, margin=DEADLINE_MARGIN)
