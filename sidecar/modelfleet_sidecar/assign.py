"""Stage assign, the shell: from what the core placed to a decision that callers can be told.

In: a `Placed` of the core's queue and its `Prospect`. Out: a `Decision`, which holds a slot and money of the
lease. Next: `forward`, or the caller.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from typing import Protocol

from modelfleet_core.batching.outcome import Placed
from modelfleet_core.catalog import ExternalPlacement, Fleet, PoolPlacement
from modelfleet_core.demand import ModelOffer
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Document, Need, Want
from modelfleet_core.policy import Policy
from modelfleet_core.values import (
    NANO,
    AccountName,
    ModelName,
    NanoUsd,
    TaskName,
    TierName,
    VariantKey,
    base_url,
)

from modelfleet_sidecar.decision import NOTHING_KEPT, About, Considered, Decision, Grounds
from modelfleet_sidecar.prospect import Prospect
from modelfleet_sidecar.reasons import reason_of


class Lease(Protocol):
    """What routing needs of the lease client."""

    @property
    def holding(self) -> Holding: ...
    @property
    def fleet(self) -> Fleet | None: ...
    @property
    def policy(self) -> Policy | None: ...
    @property
    def slot_prices(self) -> Mapping[VariantKey, float]: ...
    @property
    def money_price(self) -> float: ...
    @property
    def refusal(self) -> str: ...
    @property
    def estimator(self) -> Document: ...
    @property
    def learned(self) -> Document: ...
    def want(self, wants: Mapping[VariantKey, Want], needs: Mapping[AccountName, Need]) -> None: ...
    def record(self, tier: TierName, task: TaskName, offers: Mapping[ModelName, ModelOffer]) -> None: ...
    async def wait_change(self, timeout: float) -> bool: ...


def decision_of(placed: Placed, seen: Prospect, now: float) -> Decision:
    """Return the decision on a request that the core has placed at `now`."""
    candidate, j, held = placed.candidate, placed.column, placed.reservation
    weighed = placed.weighed
    place, model, placement = seen.frame.places[j], seen.frame.model(j), seen.frame.variants[j].placement
    template_tokens, pace, call = seen.frame.templates[place], seen.paces[j], seen.ask.call
    unknown = call.unbounded or (call.images and model.image_tokens is None)
    deviation, samples, paced = seen.evidence
    considered = NOTHING_KEPT
    if seen.ask.explained:
        considered = Considered(
            variants=candidate.variants,
            kept=array(
                "d",
                (
                    *(*candidate.quality, *candidate.cost, *candidate.service_time),
                    *(*weighed.slot_prices, *weighed.values, *weighed.paid),
                    *(*deviation, *samples, *paced),
                ),
            ),
            money_price=weighed.money_price,
            excluded_by=weighed.excluded_by,
            stopped_by=weighed.stopped_by,
        )
    return Decision(
        id=f"d-{os.urandom(12).hex()}",
        reservation=held.id,
        variant=placed.variant,
        served_name=model.served_name,
        endpoint=base_url(held.endpoint),
        slot=held.endpoint,
        tier=seen.ask.tier.name,
        task=seen.profile.task,
        rule=seen.ask.matched.rule.name if seen.ask.matched is not None else "",
        about=About(
            seen=seen.ask.reading.signs,
            difficulty=seen.profile.difficulty,
            output_tokens=seen.profile.output_tokens,
            urgency=seen.ask.urgency[0],
            urgent_by=seen.ask.urgency[1],
            matched_by=seen.ask.matched.by if seen.ask.matched is not None else (),
        ),
        reason=reason_of(seen, placed),
        quality=candidate.quality[j],
        expected_cost=NanoUsd(round(candidate.cost[j] * NANO)),
        reserved=held.amount,
        pricing=model.pricing,
        max_output_tokens=seen.output_limit[j],
        input_tokens=seen.profile.input_tokens,
        prompt_bound=None if unknown else seen.input_bound[place] - template_tokens,
        template_tokens=template_tokens,
        usual_first_token=pace.latency.time_to_first_token,
        usual_longest=pace.seconds(seen.output_limit[j]),
        settle_within=held.deadline - now if seen.ask.routed else None,
        considered=considered,
        grounds=Grounds(
            confidence=seen.known.estimates.confidence,
            estimator_version=seen.known.estimator_version,
            learned_version=seen.known.learned_version,
            base=seen.base[j],
            likeness=seen.known.likeness,
            learns=seen.policy.learning.enabled,
            explored=seen.explored == placed.variant,
            group=seen.ask.group,
            load=seen.load[j],
            asked_as=seen.asked_as,
        ),
        certificate=placed.certificate,
        batch_size=placed.batch_size,
        waited=now - seen.ask.arrived,
        earlier=seen.ask.earlier,
        api_key=placement.api_key if isinstance(placement, ExternalPlacement) else None,
        certified=placement.service.host(seen.fleet.key.namespace)
        if isinstance(placement, PoolPlacement)
        else "",
        changes=model.request,
        explained=seen.ask.explained,
        passed=seen.ask.passed,
    )
