"""A sidecar's router without servers, to see what it makes of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, NanoUsd
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.learning import Learning
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.prospect import Prospect, prospect
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.telemetry import Telemetry

from support.sidecars import GivenLease, Spec, fleet_of, live_estimator, never

SMALL, BIG = Spec("small", 0.5), Spec("big", 0.8)


class Desk:
    """A router over a granted lease of four slots of each model; no server is ever called."""

    def __init__(self, policy: Policy, specs: Sequence[Spec] = (SMALL, BIG)) -> None:
        self.lease = GivenLease()
        self.lease.fleet, self.lease.policy = fleet_of(specs), policy
        self.lease.grant(
            {EndpointUrl(f"http://{spec.name}"): SlotGrant(spec.key, 4) for spec in specs},
            money=NanoUsd(10**12),
        )
        telemetry, experience = Telemetry(), ExperienceLog()
        self.estimator = live_estimator(telemetry, experience)
        self.router = Router(
            lease=self.lease,
            estimator=self.estimator,
            learning=Learning(experience=experience, clock=boot_clock, telemetry=telemetry),
            keys=ApiKeys(None, boot_clock),
            telemetry=telemetry,
            clock=boot_clock,
            draw=never,
        )

    def ask(
        self, text: str, headers: Mapping[str, str] | None = None, *, model: str = "auto", **fields: object
    ) -> Ask:
        request = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.router.ask(parse_fields(request), headers or {}, remaining=None)

    def prospect(self, text: str, headers: Mapping[str, str] | None = None, **fields: object) -> Prospect:
        return self.look(self.ask(text, headers, **fields))  # type: ignore[arg-type]

    def look(self, asked: Ask) -> Prospect:
        assert self.lease.fleet is not None
        assert self.lease.policy is not None
        return prospect(asked, self.lease.fleet, self.lease.policy, self.estimator)

    def decide(self, text: str, headers: Mapping[str, str] | None = None, **fields: object) -> Decision:
        return asyncio.run(self.decided(text, headers, **fields))

    async def decided(
        self, text: str, headers: Mapping[str, str] | None = None, **fields: object
    ) -> Decision:
        return await self.router.decide(self.ask(text, headers, **fields))  # type: ignore[arg-type]
