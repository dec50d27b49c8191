"""Stage batch, upwards: what this sidecar could use now, told to the operator.

In: claims of what waits, slots in flight. Out: wants of the lease client, once per turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from modelfleet_core.leasing.messages import Want
from modelfleet_core.values import NanoUsd, VariantKey

from modelfleet_sidecar.assign import Lease


class Wants:
    """The sum of all claims. A claim is a slot of each of some variants, and money."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._slots: Counter[VariantKey] = Counter()
        self._money = 0
        self._telling = False

    def claim(self, variants: Iterable[VariantKey], money: int) -> None:
        self._slots.update(variants)
        self._money += money
        self.tell()

    def drop(self, variants: Iterable[VariantKey], money: int) -> None:
        """Take back a claim."""
        self._slots.subtract(variants)
        self._money -= money
        self.tell()

    def tell(self) -> None:
        """Something changed: tell the operator once this turn of the loop is over."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        wants = +self._slots
        holding = self._lease.holding
        for endpoint, slots in holding.in_flight().items():
            if (variant := holding.variant_of(endpoint)) is not None:
                wants[variant] += slots
        self._lease.want({variant: Want(slots) for variant, slots in wants.items()}, NanoUsd(self._money))
