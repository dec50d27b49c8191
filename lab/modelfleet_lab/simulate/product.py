"""The product's own queue in a simulated sidecar: the core's `batching.queue.Queue`.

In: candidates, a lease and its prices. Out: reservations and wants. With parts of it switched off it is also
its own nearest rival: published prices alone, one request at a time; a window alone, without prices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelfleet_core.batching.outcome import Placed as PlacedRequest
from modelfleet_core.batching.queue import Queue
from modelfleet_core.batching.solving import solve
from modelfleet_core.leasing.messages import Need, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.policy import Batching
from modelfleet_core.values import AccountName, VariantKey

from modelfleet_lab.simulate.offers import Offers
from modelfleet_lab.simulate.sidecar_node import Lease, Placed

SOLVE_SECONDS = 0.05
"""As in the sidecar; here they never run out, so that the same scenario always gives the same run."""


class ProductQueue:
    """`prices`: whether published prices count; `window`: whether requests may be assigned together."""

    def __init__(self, lease: Lease, offers: Offers, *, prices: bool = True, window: bool = True) -> None:
        self._lease = lease
        self._offers = offers
        self._prices = prices
        batching = offers.policy.batching if window else Batching(max_size=1, max_wait=0.0)
        self._queue = Queue(lease.holding, batching)
        self._open: dict[int, None] = {}
        self._at_once: list[tuple[int, Reservation]] = []

    @property
    def waiting(self) -> Sequence[int]:
        return tuple(self._open)

    def arrive(self, request: int, now: float) -> None:
        self._publish()
        candidate = self._offers.of(request)
        placed = self._queue.place(request, candidate, now)
        if placed is not None:
            self._at_once.append((request, placed.reservation))
            return
        self._open[request] = None
        self._queue.arrive(request, candidate, now)

    def changed(self, now: float) -> None:
        self._publish()
        self._queue.changed(now)

    def look(self, now: float) -> Placed:
        placed, self._at_once = self._at_once, []
        given_up: list[int] = []
        while (batch := self._queue.due(now)) is not None:
            for outcome in self._queue.commit(solve(batch, lambda: SOLVE_SECONDS), now):
                del self._open[outcome.ticket]
                if isinstance(outcome, PlacedRequest):
                    placed.append((outcome.ticket, outcome.reservation))
                else:
                    given_up.append(outcome.ticket)
        return Placed(placed, given_up, self._queue.wake_at)

    def wants(self, now: float) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]:
        return self._queue.wants(now)

    def _publish(self) -> None:
        if self._prices:
            self._queue.set_prices(self._lease.slot_prices, self._lease.money_price)
        else:
            self._queue.set_prices({}, self._lease.money_price)
