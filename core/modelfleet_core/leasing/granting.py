"""Stage publish: composes the next grant of one sidecar and counts it as held.

In come its holder and what the leader publishes; out goes the grant. `grants.py` decides when one is due,
`exchange.py` and `treasury.py` what it grants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelfleet_core.leasing.estimators import Courier
from modelfleet_core.leasing.exchange import Exchange
from modelfleet_core.leasing.holders import Follows, Holder
from modelfleet_core.leasing.messages import Grant
from modelfleet_core.leasing.treasury import Treasury

if TYPE_CHECKING:
    from modelfleet_core.leasing.grants import Documents, Prices

RENEWALS = 10
"""A lease is renewed this often before it would end."""


def renewal_due(holder: Holder) -> bool:
    """Return whether the newest report would renew the lease by enough to be worth a grant."""
    last = holder.last
    return last is None or holder.report.sent_at - last.report_sent_at >= last.ttl / RENEWALS


def grant_next(
    holder: Holder,
    now: float,
    *,
    epoch: int,
    ttl: float,
    floors: bool,
    report_every: float,
    exchange: Exchange,
    treasury: Treasury,
    documents: Documents,
    courier: Courier,
    prices: Prices,
) -> Grant:
    """Return a sidecar's next grant, counted as held. Times are the leader's seconds.

    `ttl`: seconds for which a lease lasts where no policy says so; `floors`: some policy has any.
    """
    follows = holder.follows if isinstance(holder.follows, Follows) else None
    policy, document = documents.policies[follows.policy] if follows is not None else (None, None)
    slots = exchange.grantable(holder, policy.floor if policy is not None and floors else None)
    moves = slots is not holder.granted
    asks, linger = exchange.asks(holder, now)
    estimator, learned = courier.parcel(holder, follows.policy if follows is not None else None, now)
    grant = Grant(
        epoch=epoch,
        sequence=holder.sequence + 1,
        answers=holder.report.sequence,
        report_sent_at=holder.report.sent_at,
        ttl=policy.staleness.max_age if policy is not None else ttl,
        slots=slots,
        accounts=treasury.accounts(holder),
        slot_prices=prices.slots.get(follows.fleet, {}) if follows is not None else {},
        money_price=prices.money.get(follows.policy, 0.0) if follows is not None else 0.0,
        fleet=holder.lacks_fleet(documents.fleets.get(follows.fleet)) if follows is not None else None,
        policy=holder.lacks_policy(document),
        refusal=holder.follows if isinstance(holder.follows, str) else "",
        asks=asks,
        linger=linger,
        report_every=report_every,
        estimator=estimator,
        learned=learned,
    )
    before = holder.told
    holder.tell(grant)
    if moves:
        exchange.granted(holder, before, now)
    return grant
