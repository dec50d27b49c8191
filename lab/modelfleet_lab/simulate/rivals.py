"""What others would decide in the place of the product's queue, over the same leases or over all slots.

In: candidates and a lease. Out: reservations. Each asks for a slot of every model for each request that
waits, and for no more once it has started.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.leasing.messages import Bid, Need, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.values import AccountName, EndpointUrl, VariantKey, usd

from modelfleet_lab.methods import BatchView, Method
from modelfleet_lab.simulate.offers import Offers
from modelfleet_lab.simulate.sidecar_node import Lease, Placed

MARGIN = 0.01
"""Seconds that an answer should be ready before its deadline: it has to travel."""


class MethodQueue:
    """A first-come queue that lets a method of `modelfleet_lab.methods` choose whenever something changes."""

    def __init__(self, lease: Lease, offers: Offers, method: Method) -> None:
        self._lease = lease
        self._offers = offers
        self._method = method
        self._queue: dict[int, Candidate] = {}

    @property
    def waiting(self) -> Sequence[int]:
        return tuple(self._queue)

    def arrive(self, request: int, now: float) -> None:
        self._queue[request] = self._offers.of(request)

    def changed(self, now: float) -> None:
        pass  # everything is looked at whenever anything happens

    def look(self, now: float) -> Placed:
        late = [i for i, one in self._queue.items() if one.latest_start < now]
        for i in late:
            del self._queue[i]
        placed: list[tuple[int, Reservation]] = []
        spots = self._spots(now)
        if self._queue and spots:
            waiting = list(self._queue.items())
            for (request, one), j in zip(waiting, self._choose(waiting, spots, now), strict=True):
                held = self._reserve(one, int(j), spots, now) if j >= 0 else None
                if held is not None:
                    placed.append((request, held))
                    del self._queue[request]
        wake = min((one.latest_start for one in self._queue.values()), default=None)
        return Placed(placed, late, wake + 1e-6 if wake is not None else None)

    def _choose(
        self,
        waiting: Sequence[tuple[int, Candidate]],
        spots: Mapping[VariantKey, Counter[EndpointUrl]],
        now: float,
    ) -> Sequence[int]:
        variants = self._offers.variants
        some = [one for _, one in waiting]
        free = np.array([spots[v].total() if v in spots else 0 for v in variants], dtype=np.int64)
        service = np.array([one.service_time for one in some])
        left = np.array([one.deadline for one in some])[:, None] - now
        money = self._lease.holding.money(now)
        view = BatchView(
            weight=np.array([one.weight for one in some]),
            quality=np.array([one.quality for one in some]),
            cost=np.array([one.cost for one in some]),
            service_time=service,
            eligible=service + MARGIN <= left,
            free=free,
            slots=np.maximum(free, 1),
            money=usd(money) if money is not None else float("inf"),
            now=now,
        )
        return [int(j) for j in self._method.choose(view)]

    def _spots(self, now: float) -> dict[VariantKey, Counter[EndpointUrl]]:
        spots: dict[VariantKey, Counter[EndpointUrl]] = {}
        for endpoint, slots in self._lease.holding.free(now).items():
            variant = self._lease.holding.variant_of(endpoint)
            if slots > 0 and variant is not None:
                spots.setdefault(variant, Counter())[endpoint] = slots
        return spots

    def _reserve(
        self, one: Candidate, j: int, spots: Mapping[VariantKey, Counter[EndpointUrl]], now: float
    ) -> Reservation | None:
        free = spots[one.variants[j]]
        endpoint, slots = free.most_common(1)[0]
        if slots <= 0:
            return None
        held = self._lease.holding.reserve(
            now, endpoint, one.reserve[j], one.held_until(now), charges=one.charged(j), tier=one.tier
        )
        if not isinstance(held, Reservation):
            return None
        free[endpoint] -= 1
        return held

    def wants(self, now: float) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]:
        holding = self._lease.holding
        in_use: Counter[VariantKey] = Counter()
        for endpoint, slots in holding.in_flight().items():
            if (variant := holding.variant_of(endpoint)) is not None:
                in_use[variant] += slots
        tiers = Counter(one.weight for one in self._queue.values())
        wants = {}
        for j, variant in enumerate(self._offers.variants):
            bids = tuple(
                Bid(
                    weight,
                    max(one.weight * one.quality[j] for one in self._queue.values() if one.weight == weight),
                    count,
                )
                for weight, count in sorted(tiers.items(), reverse=True)
            )
            wants[variant] = Want(in_use[variant] + len(self._queue), bids)
        needs: dict[AccountName, Need] = {}
        for one in self._queue.values():
            for name, charge in one.charged(one.reserve.index(max(one.reserve))).items():
                total = needs[name].total if name in needs else 0
                needs[name] = Need(total + charge, charge, one.weight, one.weight)
        return wants, needs
