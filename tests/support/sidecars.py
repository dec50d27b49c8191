"""A sidecar with a lease that the test writes, in front of simulated model servers, all on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelfleet_core.catalog import (
    ExternalPlacement,
    Fleet,
    Latency,
    Model,
    Pricing,
    Quality,
    Scaling,
    SecretKey,
    Variant,
)
from modelfleet_core.demand import ModelOffer
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.signs import signs
from modelfleet_core.estimation.urgency import Urgency
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import AccountGrant, Grant, Need, SidecarId, SlotGrant, Want
from modelfleet_core.policy import Batching, Budget, Fallback, Limits, Period, PodSelector, Policy, Tier
from modelfleet_core.values import (
    AccountName,
    EndpointUrl,
    ModelName,
    NanoUsd,
    ObjectKey,
    PeriodId,
    TaskName,
    TierName,
    VariantKey,
    account_id,
)
from modelfleet_lab.model_server.answers import Answer
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.server import ModelServer, ServerSettings
from modelfleet_sidecar.app import Sidecar
from modelfleet_sidecar.decision import About, Grounds
from modelfleet_sidecar.estimates import LiveEstimator
from modelfleet_sidecar.lease import NO_DOCUMENT, Evidence, boot_clock
from modelfleet_sidecar.settings import Address, Settings
from modelfleet_sidecar.telemetry import Telemetry

ANYWHERE = Address("127.0.0.1", 0)
PERIOD = PeriodId("ml/assistant/Day/2026-11-22")
FAST = LatencyProfile(ttft=2.0, per_token=1.0, load=0.0)
SLOW = LatencyProfile(ttft=20.0, per_token=50.0, load=0.0)
CRAWLING = LatencyProfile(ttft=20.0, per_token=1000.0, load=0.0)
"""Starts at once and takes many seconds."""
STUCK = LatencyProfile(ttft=60_000.0, per_token=1.0, load=0.0)
TRIED_AGAIN = Fallback()
TRIED_ONCE = Fallback(max_attempts=1)
GROUNDS = Grounds(
    confidence=0.0,
    estimator_version="",
    learned_version="",
    base=0.7,
    likeness=None,
    learns=True,
    explored=False,
    group="",
    load=0.0,
    asked_as=0,
)
"""Of a decision whose estimate is the manifest's word."""
ABOUT = About(
    seen=signs("hello"),
    difficulty=0.1,
    output_tokens=10.0,
    urgency=Urgency.INTERACTIVE,
    urgent_by="at most 64 words",
    matched_by=(),
)
"""Of a decision on a greeting."""
PRICING = Pricing(input_femto=10**9, output_femto=2 * 10**9)


@dataclass(frozen=True, slots=True)
class Spec:
    """One model of the fleet and its server."""

    name: str
    quality: float = 0.7
    slots: int = 4
    latency: LatencyProfile = FAST
    declared: LatencyProfile = FAST
    """What the manifest says of it."""
    pricing: Pricing = PRICING
    context_tokens: int | None = None
    by_task: Mapping[str, float] = field(default_factory=dict)
    api_key: SecretKey | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """What its server answers (`modelfleet_lab.model_server.answers`)."""

    @property
    def key(self) -> VariantKey:
        return VariantKey(ModelName(self.name), "gpu")

    @property
    def served_name(self) -> str:
        return f"served/{self.name}"


def fleet_of(specs: Sequence[Spec]) -> Fleet:
    """Return a fleet with one variant for each spec."""
    models = []
    for spec in specs:
        latency = Latency(spec.declared.ttft / 1e3, spec.declared.per_token / 1e3)
        placement = ExternalPlacement(EndpointUrl("http://127.0.0.1:9"), api_key=spec.api_key)
        models.append(
            Model(
                name=ModelName(spec.name),
                served_name=spec.served_name,
                quality=Quality(spec.quality, {TaskName(task): mean for task, mean in spec.by_task.items()}),
                context_tokens=spec.context_tokens,
                pricing=spec.pricing,
                variants=(Variant(spec.key, placement, spec.slots, latency),),
            )
        )
    scaling = Scaling(interval=15.0, scale_down_stabilization=300.0, solve_timeout=5.0)
    return Fleet(ObjectKey("ml", "chat"), (), tuple(models), None, scaling)


def policy_of(
    *,
    budget: NanoUsd | None = None,
    max_output_tokens: int = 100,
    max_request: float = 20.0,
    max_body: int = 16 * 1024 * 1024,
    shed_penalty: float = 0.5,
    fallback: Fallback = TRIED_AGAIN,
) -> Policy:
    """Return a policy with tiers gold (header x-tier: gold, weight 4) and bronze."""
    return Policy(
        key=ObjectKey("ml", "assistant"),
        fleet=ObjectKey("ml", "chat"),
        pod_selector=PodSelector({}),
        batching=Batching(max_size=64, max_wait=0.02),
        budget=None if budget is None else Budget(budget, Period.DAY),
        limits=Limits(max_output_tokens=max_output_tokens, max_request=max_request, max_body=max_body),
        tiers=(
            Tier(TierName("gold"), 4.0, {"x-tier": "gold"}),
            Tier(TierName("bronze"), 1.0, {}),
        ),
        shed_penalty=shed_penalty,
        fallback=fallback,
    )


def live_estimator(
    telemetry: Telemetry | None = None, experience: ExperienceLog | None = None
) -> LiveEstimator:
    """Return an estimator that goes by the manifest's priors."""
    return LiveEstimator(
        telemetry=telemetry if telemetry is not None else Telemetry(),
        experience=experience if experience is not None else ExperienceLog(),
    )


def never() -> float:
    """Return a draw that explores nothing."""
    return 1.0


class GivenLease:
    """A lease as the lease client shows it, granted by the test instead of an operator."""

    def __init__(self) -> None:
        self.holding = Holding(SidecarId("ml", "app-0", "uid-0", "boot"))
        self.fleet: Fleet | None = None
        self.policy: Policy | None = None
        self.slot_prices: Mapping[VariantKey, float] = {}
        self.money_price = 0.0
        self.refusal = ""
        self.estimator = self.learned = NO_DOCUMENT
        self.evidence: Evidence | None = None
        self.connected = True
        self.trouble = ""
        self.wants: Mapping[VariantKey, Want] = {}
        self.needs: Mapping[AccountName, Need] = {}
        self.demand: list[tuple[TierName, TaskName, Mapping[ModelName, ModelOffer]]] = []
        self._changed = asyncio.Event()

    def grant(
        self,
        slots: Mapping[EndpointUrl, SlotGrant],
        *,
        money: NanoUsd | None = None,
        ttl: float = 3600.0,
        requests: Mapping[AccountName, int] | None = None,
    ) -> None:
        """Grant `slots` and in all `money` and `requests` of quotas for the period, from now on."""
        accounts = {
            account_id(PERIOD, name): AccountGrant(granted=most, keep=most, limit=most, ends_in=3600.0)
            for name, most in (requests or {}).items()
        }
        if money is not None:
            accounts[account_id(PERIOD, BUDGET)] = AccountGrant(
                granted=money, keep=money, limit=money, ends_in=3600.0
            )
            if self.policy is not None and self.policy.budget is None:
                self.policy = replace(self.policy, budget=Budget(money, Period.DAY))
        self.holding.follow(self.policy)
        now = boot_clock()
        applied = self.holding.apply(
            Grant(
                epoch=self.holding.epoch,
                sequence=self.holding.applied + 1,
                answers=0,
                report_sent_at=now,
                ttl=ttl,
                slots=slots,
                accounts=accounts,
                slot_prices=self.slot_prices,
                money_price=self.money_price,
                fleet=None,
                policy=None,
                refusal="",
            ),
            now,
        )
        assert applied
        self.change()

    def change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def want(self, wants: Mapping[VariantKey, Want], needs: Mapping[AccountName, Need]) -> None:
        self.wants, self.needs = wants, needs

    def record(self, tier: TierName, task: TaskName, offers: Mapping[ModelName, ModelOffer]) -> None:
        self.demand.append((tier, task, offers))

    async def wait_change(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def tell_of(self, evidence: Evidence) -> None:
        self.evidence = evidence

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, timeout: float = 5.0) -> bool:
        self.holding.leave(boot_clock())
        return self.holding.idle()


@dataclass(slots=True)
class Rig:
    """A running sidecar and what stands around it."""

    sidecar: Sidecar
    lease: GivenLease
    servers: Mapping[str, ModelServer]
    slots: Mapping[EndpointUrl, SlotGrant]

    @property
    def http(self) -> str:
        return f"http://{self.sidecar.http_address}"

    @property
    def grpc(self) -> str:
        return str(self.sidecar.grpc_address)

    @property
    def admin(self) -> str:
        return f"http://{self.sidecar.admin_address}"

    async def settled(self, timeout: float = 5.0) -> None:
        """Return once no slot and no money is held; raise TimeoutError with what still is."""
        async with asyncio.timeout(timeout):
            # Nothing tells when the last one has gone; the timeout bounds the looking.
            while self.sidecar.router.unsettled or self.lease.holding.in_flight():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def settings_for(
    operator: Address = ANYWHERE,
    *,
    drain_grace: float = 5.0,
    keys: Path | None = None,
    estimator: str = "default",
    grpc_socket: Path | None = None,
    http_socket: Path | None = None,
) -> Settings:
    return Settings(
        operator=operator,
        operator_ca="",
        operator_token=None,
        namespace="ml",
        pod_name="app-0",
        pod_uid="uid-0",
        grpc_listen=ANYWHERE,
        http_listen=ANYWHERE,
        grpc_socket=grpc_socket,
        http_socket=http_socket,
        admin_listen=ANYWHERE,
        drain_grace=drain_grace,
        journal=None,
        keys=keys,
        estimator=estimator,
        log_format="text",
        log_level="info",
    )


@asynccontextmanager
async def running_sidecar(
    *specs: Spec,
    policy: Policy | None = None,
    money: NanoUsd | None = None,
    granted: bool = True,
    keys: Path | None = None,
    drain_grace: float = 5.0,
    estimator: str = "default",
    draw: Callable[[], float] = never,
    grpc_socket: Path | None = None,
    http_socket: Path | None = None,
) -> AsyncIterator[Rig]:
    """Start a simulated server for each spec and a sidecar that holds all their slots."""
    async with AsyncExitStack() as stack:
        servers: dict[str, ModelServer] = {}
        slots: dict[EndpointUrl, SlotGrant] = {}
        for spec in specs:
            server = ModelServer(
                ServerSettings(
                    model=spec.served_name,
                    concurrency=spec.slots,
                    latency=spec.latency,
                    pricing=spec.pricing,
                    name=spec.name,
                    chunk_seconds=0.01,
                    answers=spec.answers,
                )
            )
            await server.start()
            stack.push_async_callback(server.stop)
            await server.until(lambda server: server.ready)
            servers[spec.name] = server
            slots[EndpointUrl(server.url)] = SlotGrant(spec.key, spec.slots)
        lease = GivenLease()
        chosen = policy if policy is not None else policy_of()
        if money is not None and chosen.budget is None:
            chosen = replace(chosen, budget=Budget(money, Period.DAY))
        if granted:
            lease.fleet, lease.policy = fleet_of(specs), chosen
            lease.grant(slots, money=money)
        settings = settings_for(
            keys=keys,
            drain_grace=drain_grace,
            estimator=estimator,
            grpc_socket=grpc_socket,
            http_socket=http_socket,
        )
        sidecar = Sidecar(settings=settings, lease=lease, draw=draw)
        await sidecar.start()
        stack.push_async_callback(sidecar.drain)
        yield Rig(sidecar, lease, servers, slots)
