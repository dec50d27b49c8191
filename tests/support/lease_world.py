"""A small world of leaders, sidecars, model servers and a ledger store in which anything may go wrong.

Messages are lost, repeated and reordered; sidecars stall, crash, restart and vanish; leaders are superseded
while they go on; capacity comes and goes; writes fail after or before they happened. After every step the
world checks, knowing everything, what `guarantees.md` promises.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET, Account, accounts_of, charges, counts_requests
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows, held_by
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.ledger import LedgerRecord
from modelfleet_core.leasing.messages import Bid, Document, Grant, Need, Report, SidecarId, Want
from modelfleet_core.leasing.period_accounts import ForeignEpochError
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.manifests import parse_policy
from modelfleet_core.policy import Policy, Stale, Staleness
from modelfleet_core.values import (
    AccountId,
    AccountName,
    EndpointUrl,
    ModelName,
    NanoUsd,
    ObjectKey,
    PeriodId,
    TierName,
    VariantKey,
    account_parts,
)

from support.manifests import policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
LARGE = VariantKey(ModelName("large"), "h100")
SMALL = VariantKey(ModelName("small"), "l4")
ENDPOINTS = {EndpointUrl("http://a"): LARGE, EndpointUrl("http://b"): LARGE, EndpointUrl("http://c"): SMALL}
TTL = 10.0
LONGEST = 20.0
LIMIT = 60
SHARE, TENANT, QUOTA = AccountName("share:large"), AccountName("tenant:acme"), AccountName("quota:Day:large")
TIERS = (TierName("gold"), TierName("bronze"))
START = datetime(2026, 11, 22, 12, 58, tzinfo=UTC)
NOTICES = 5.0


def promise(account: AccountName) -> str:
    """Return the guarantee that speaks of an account."""
    return "G3" if account == BUDGET else "G4"


class BrokenPromiseError(AssertionError):
    """The world saw a guarantee broken; the text names which."""


@dataclass(slots=True)
class Process:
    """One start of a sidecar. Its clock may run up to 0.4 % fast or slow."""

    holding: Holding
    offset: float
    rate: float
    stalled: bool = False
    settled: list[int] = field(default_factory=list)
    live: dict[int, Reservation] = field(default_factory=dict)
    spent: dict[AccountId, int] = field(default_factory=dict)

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now


@dataclass(slots=True)
class Leader:
    book: LeaseBook


@dataclass(frozen=True, slots=True)
class Ghost:
    """A request of a crashed sidecar that its model server still works on."""

    endpoint: EndpointUrl
    until: float


def policy_of(then: Stale) -> Policy:
    """Return a policy with an account of every kind, in periods of an hour and of a day."""
    manifest = policy_manifest()
    spec = manifest["spec"]
    spec["limits"]["maxRequest"] = f"{LONGEST:g}s"
    spec["budget"]["shares"] = [{"models": ["large"], "max": "50%"}]
    spec["tenants"] = {"header": "x-tenant", "declared": [{"name": "acme", "max": "40%"}]}
    spec["quotas"] = [{"models": ["large"], "requests": 25, "period": "Day"}]
    spec["staleness"] = {"then": then.value}
    if then is Stale.FLOOR:
        spec["tiers"][0]["floor"], spec["tiers"][1]["floor"] = 2, 1
    policy = parse_policy(manifest)
    assert policy.budget is not None
    return replace(
        policy,
        budget=replace(policy.budget, limit=NanoUsd(LIMIT)),
        staleness=Staleness(max_age=TTL, then=then),
    )


def amounts_of(reservation: Reservation, charged: int) -> dict[AccountId, int]:
    """Return what a request that costs `charged` is booked in each account of its reservation."""
    return {
        account: 1 if counts_requests(account_parts(account)[1]) else charged
        for account in reservation.accounts
    }


class LeaseWorld:
    """`step` does one random thing and checks everything; `settle_down` lets all come to an end."""

    def __init__(self, seed: int, *, sidecars: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.policy = policy_of(self.random.choice(list(Stale)))
        self.accounts: dict[AccountName, Account] = {one.name: one for one in accounts_of(self.policy)}
        self.documents = Documents(
            {FLEET: Document("f1", b"{}")}, {POLICY: (self.policy, Document("p1", b"{}"))}
        )
        self.capacity = {endpoint: self.random.randint(1, 4) for endpoint in ENDPOINTS}
        self.allowed = dict(self.capacity)
        self.ledger: dict[PeriodId, LedgerRecord] = {}
        self.late_writes: list[LedgerRecord] = []
        self.version = 0
        self.leaders: list[Leader] = []
        self.processes: dict[SidecarId, Process] = {}
        self.pods: set[str] = set()
        self.boots = 0
        self.reports: list[Report] = []
        self.grants: list[tuple[SidecarId, Grant]] = []
        self.ghosts: list[Ghost] = []
        self.dead_money: dict[AccountId, int] = {}
        self.epoch = 0
        self.reserved_ever = 0
        self.faults = True
        self.new_leader()
        for number in range(sidecars):
            self.start(f"pod{number}")

    # Things that happen.

    def new_leader(self) -> None:
        """A leader of the next epoch comes; older ones may not know yet."""
        self.epoch += 1
        may_hold = set(self.pods) if self.epoch > 1 else set()
        book = LeaseBook(epoch=self.epoch, ttl=TTL, now=self.now, may_hold=may_hold)
        book.set_documents(self.documents)
        book.set_capacity(self._published())
        self.leaders.append(Leader(book))

    def start(self, uid: str) -> None:
        self.boots += 1
        sidecar = SidecarId("ml", uid, uid, f"boot{self.boots}")
        self.pods.add(uid)
        self.processes[sidecar] = Process(
            Holding(sidecar), self.random.uniform(-50, 50), self.random.uniform(0.996, 1.004)
        )
        self.processes[sidecar].holding.follow(self.policy)
        self.connect(self.processes[sidecar])

    def crash(self, sidecar: SidecarId) -> None:
        """The process ends; its model servers notice a little later. Its pod stays."""
        process = self.processes.pop(sidecar)
        for reservation in process.live.values():
            if reservation.deadline > process.clock(self.now):
                until = self.now + self.random.uniform(0, NOTICES * 0.99)
                self.ghosts.append(Ghost(reservation.endpoint, until))
            for account, amount in amounts_of(reservation, reservation.amount).items():
                self._lose(account, amount)
        for account, spent in process.spent.items():
            self._lose(account, spent)
        self.grants = [(to, grant) for to, grant in self.grants if to != sidecar]

    def _lose(self, account: AccountId, amount: int) -> None:
        self.dead_money[account] = self.dead_money.get(account, 0) + amount

    def delete_pod(self, uid: str) -> None:
        """The pod goes and the API server says so."""
        for sidecar in [s for s in self.processes if s.uid == uid]:
            self.crash(sidecar)
        self.pods.discard(uid)
        for leader in self.leaders:
            leader.book.forget(uid, self.now)

    def connect(self, process: Process) -> None:
        """A sidecar opens a stream to some leader, which may be an old one."""
        if not self.leaders:
            return
        leader = self.random.choice([*self.leaders, self.leaders[-1], self.leaders[-1]])
        if process.holding.adopt(leader.book.epoch):
            leader.book.connect(process.holding.sidecar)

    def report(self, process: Process) -> None:
        self.reports.append(
            process.holding.report(
                process.clock(self.now), demand=NO_DEMAND, fleet_version="", policy_version=""
            )
        )

    def deliver_report(self, report: Report) -> None:
        for leader in self.leaders:
            if leader.book.hear(report, self.now):
                leader.book.follow(report.sidecar, Follows(POLICY, FLEET))
                for holder in leader.book.holders():
                    if holder.id.uid == report.sidecar.uid and holder.id not in self.processes:
                        leader.book.replaced(holder.id, self.now)

    def deliver_grant(self, sidecar: SidecarId, grant: Grant) -> None:
        process = self.processes.get(sidecar)
        if process is not None and not process.stalled:
            process.holding.apply(grant, process.clock(self.now))

    def turn(self, leader: Leader) -> None:
        """A leader prunes, opens and writes ledgers, and grants."""
        leader.book.prune(self.now)
        at = START + timedelta(seconds=self.now - 100)
        try:
            for policy, period in leader.book.unopened(at):
                leader.book.open(policy, period, self.ledger.get(period.id), self.now)
            everyone = [holder.id for holder in leader.book.holders()]
            self.grants.extend(leader.book.turn(self.now, everyone))
            for record in leader.book.due(self.now):
                self.write(leader, record)
        except ForeignEpochError:
            self.leaders.remove(leader)
            if not self.leaders:
                self.new_leader()

    def wake_old_leader(self, leader: Leader) -> None:
        """A leader whose time is over grants nothing more, but writes that it had begun may still arrive."""
        try:
            for record in leader.book.due(self.now):
                self.write(leader, record)
        except ForeignEpochError:
            self.leaders.remove(leader)
            if not self.leaders:
                self.new_leader()

    def write(self, leader: Leader, record: LedgerRecord) -> None:
        fate = self.random.random() if self.faults else 0.0
        if fate < 0.8:
            version = self.store(record)
            if version is not None:
                leader.book.written(record, version)
                return
        elif fate < 0.87:
            self.store(record)  # but the answer is lost
        elif fate < 0.94:
            self.late_writes.append(record)
        leader.book.found(record, self.ledger.get(record.period))

    def store(self, record: LedgerRecord) -> str | None:
        stored = self.ledger.get(record.period)
        if (stored.version if stored is not None else None) != record.version:
            return None
        self.version += 1
        self.ledger[record.period] = replace(record, version=str(self.version))
        return str(self.version)

    def change_capacity(self) -> None:
        before = self.potential()
        endpoint = self.random.choice(list(ENDPOINTS))
        self.capacity[endpoint] = self.random.randint(0, 4)
        self.allowed[endpoint] = max(self.capacity[endpoint], self.allowed[endpoint], before[endpoint])
        for leader in self.leaders:
            leader.book.set_capacity(self._published())

    def _published(self) -> dict[ObjectKey, dict[VariantKey, dict[EndpointUrl, int]]]:
        variants: dict[VariantKey, dict[EndpointUrl, int]] = {LARGE: {}, SMALL: {}}
        for endpoint, slots in self.capacity.items():
            if slots:
                variants[ENDPOINTS[endpoint]][endpoint] = slots
        return {FLEET: variants}

    def reserve(self, process: Process) -> None:
        now = process.clock(self.now)
        tier = self.random.choice(TIERS)
        free = [endpoint for endpoint, slots in process.holding.free(now, tier).items() if slots > 0]
        if not free:
            return
        amount = NanoUsd(self.random.randint(0, 6))
        endpoint = self.random.choice(free)
        deadline = now + self.random.uniform(0, LONGEST * 0.99)
        tenant = self.random.choice([None, "acme"])
        charged = charges(self.accounts.values(), ENDPOINTS[endpoint].model, tenant, amount)
        taken = process.holding.reserve(now, endpoint, amount, deadline, charges=charged, tier=tier)
        if isinstance(taken, Reservation):
            self.reserved_ever += 1
            process.live[taken.id] = taken

    def cancel(self, process: Process, reservation: Reservation) -> None:
        """The request was never sent."""
        process.holding.cancel(reservation.id, process.clock(self.now))
        del process.live[reservation.id]

    def settle(self, process: Process, reservation: Reservation, actual: NanoUsd | None) -> None:
        now = process.clock(self.now)
        first = process.holding.settle(reservation.id, actual, now)
        again = process.holding.settle(reservation.id, actual, now)
        if not first.first or again.first or again.charged:
            raise BrokenPromiseError("G11: settling twice counted twice")
        self._book(process, reservation, first.charged)

    def _book(self, process: Process, reservation: Reservation, charged: int) -> None:
        del process.live[reservation.id]
        for account, amount in amounts_of(reservation, charged).items():
            process.spent[account] = process.spent.get(account, 0) + amount

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.ghosts = [ghost for ghost in self.ghosts if ghost.until > self.now]
        for process in self.processes.values():
            if not process.stalled:
                self.expire(process)

    def expire(self, process: Process) -> None:
        for reservation, settlement in process.holding.expire(process.clock(self.now)):
            self._book(process, reservation, settlement.charged)

    def step(self) -> None:
        """Do one random thing, then check."""
        chance = self.random.random()
        awake = [process for process in self.processes.values() if not process.stalled]
        if chance < 0.20 and self.leaders:
            self.turn(self.leaders[-1])
        elif chance < 0.22 and self.leaders:
            self.wake_old_leader(self.random.choice(self.leaders))
        elif chance < 0.40 and self.reports:
            at = self.random.randrange(len(self.reports)) if self.random.random() < 0.3 else -1
            self.deliver_report(self.reports[at] if self.random.random() < 0.1 else self.reports.pop(at))
        elif chance < 0.58 and self.grants:
            at = self.random.randrange(len(self.grants)) if self.random.random() < 0.3 else -1
            self.deliver_grant(*(self.grants[at] if self.random.random() < 0.1 else self.grants.pop(at)))
        elif chance < 0.92 and awake:
            self.act(self.random.choice(awake))
        elif chance < 0.98:
            self.pass_time(
                self.random.choice([*[0.1] * 8, *[0.5] * 8, *[1] * 8, 3, 3, TTL, TTL + LONGEST + 1])
            )
        else:
            self.misfortune()
        if self.random.random() < 0.05:
            self.reports = self.reports[-20:]
            self.grants = self.grants[-20:]
        self.check()

    def act(self, process: Process) -> None:
        chance = self.random.random()
        if chance < 0.35:
            self.report(process)
        elif chance < 0.65:
            self.reserve(process)
        elif chance < 0.80 and process.live:
            reservation = self.random.choice(list(process.live.values()))
            if self.random.random() < 0.1:
                self.cancel(process, reservation)
                return
            known = self.random.random() < 0.7
            actual = NanoUsd(self.random.randint(0, reservation.amount)) if known else None
            self.settle(process, reservation, actual)
        elif chance < 0.93:
            process.holding.want(
                {variant: self._want() for variant in (LARGE, SMALL)},
                self._needs(),
            )
            process.holding.give_back(process.clock(self.now))
        else:
            self.connect(process)

    def _want(self) -> Want:
        slots = self.random.randint(0, 6)
        return Want(slots, (Bid(1.0, self.random.random(), slots),) if slots else ())

    def _needs(self) -> dict[AccountName, Need]:
        """Return what requests of about the same amounts would charge most of the accounts."""
        total = self.random.choice([0, 0, 3, 6, 12, 40])
        first = self.random.randint(0, total)
        chosen = [name for name in self.accounts if self.random.random() < 0.9]
        return {name: Need(total, first, 1.0, self.random.random()) for name in chosen}

    def misfortune(self) -> None:
        chance = self.random.random()
        sidecar = self.random.choice(list(self.processes)) if self.processes else None
        if chance < 0.25:
            self.change_capacity()
        elif chance < 0.40 and len(self.leaders) < 3:
            self.new_leader()
        elif chance < 0.45 and len(self.leaders) > 1:
            self.leaders.pop(0)
        elif chance < 0.60 and sidecar is not None:
            self.crash(sidecar)
            self.start(sidecar.uid)
        elif chance < 0.66 and sidecar is not None:
            self.delete_pod(sidecar.uid)
            self.start(f"pod-after-{self.boots}")
        elif chance < 0.72 and sidecar is not None:
            self.processes[sidecar].holding.leave(self.processes[sidecar].clock(self.now))
        elif chance < 0.90 and sidecar is not None:
            process = self.processes[sidecar]
            process.stalled = not process.stalled
            if not process.stalled:
                self.expire(process)
        elif self.late_writes:
            self.store(self.late_writes.pop(self.random.randrange(len(self.late_writes))))

    # What must hold.

    def potential(self) -> dict[EndpointUrl, int]:
        """Return the most that may ever be in flight at each endpoint without a new grant."""
        total = dict.fromkeys(ENDPOINTS, 0)
        for ghost in self.ghosts:
            total[ghost.endpoint] += 1
        for sidecar, process in self.processes.items():
            holding, now = process.holding, process.clock(self.now)
            running = dict.fromkeys(ENDPOINTS, 0)
            for reservation in process.live.values():
                running[reservation.endpoint] += reservation.deadline > now
            most = running
            if not holding.leaving:
                for endpoint, held in holding.lease.slots.items():
                    most[endpoint] = max(most[endpoint], held.slots if holding.live(now) else held.floor)
                for grant in self.applicable(sidecar, holding):
                    live = now < grant.report_sent_at + grant.ttl
                    for endpoint, granted in grant.slots.items():
                        most[endpoint] = max(most[endpoint], granted.slots if live else granted.floor)
            for endpoint, slots in most.items():
                total[endpoint] += slots
        return total

    def unheard_floor(self, endpoint: EndpointUrl) -> bool:
        """Return whether a sidecar that the newest leader has not heard keeps a floor from an older one."""
        heard = {holder.id for leader in self.leaders[-1:] for holder in leader.book.holders()}
        floors = (
            process.holding.lease.slots[endpoint].floor
            for sidecar, process in self.processes.items()
            if sidecar not in heard and endpoint in process.holding.lease.slots
        )
        return any(floors)

    def applicable(self, sidecar: SidecarId, holding: Holding) -> list[Grant]:
        """Return the grants under way that the sidecar would still apply."""
        return [
            grant
            for to, grant in self.grants
            if to == sidecar and grant.epoch == holding.epoch and grant.sequence > holding.applied
        ]

    def check(self) -> None:
        counted = [held_by(leader.book.holders()) for leader in self.leaders]
        recovering = any(leader.book.recovering(self.now) for leader in self.leaders)
        potential = self.potential()
        for endpoint, slots in self.capacity.items():
            if potential[endpoint] > self.allowed[endpoint]:
                raise BrokenPromiseError(
                    f"G1, G2: {potential[endpoint]} slots of {endpoint} may be in use, "
                    f"{self.allowed[endpoint]} are live"
                )
            unseen = recovering or self.unheard_floor(endpoint)
            if not unseen and all(held.get(endpoint, 0) <= slots for held in counted[-1:]):
                self.allowed[endpoint] = slots  # the leader saw its recalls heeded: the exception is over
        for period, record in self.ledger.items():
            for name, stored in record.accounts.items():
                if stored.watermark > self.accounts[name].limit:
                    raise BrokenPromiseError(f"{promise(name)}: {name} of {period} is over its limit")
        self.check_money()

    def check_money(self) -> None:
        total = dict(self.dead_money)
        for sidecar, process in self.processes.items():
            granted: dict[AccountId, int] = {}
            for grant in self.applicable(sidecar, process.holding):
                for key, account_grant in grant.accounts.items():
                    granted[key] = max(granted.get(key, 0), account_grant.granted)
            for key in granted.keys() | process.spent.keys() | process.holding.accounts():
                account = process.holding.account(key)
                spent = process.spent.get(key, 0)
                if account is None:
                    total[key] = total.get(key, 0) + max(spent, granted.get(key, 0))
                    continue
                broken = promise(account_parts(key)[1])
                if account.spent + account.reserved > account.granted - account.returned:
                    raise BrokenPromiseError(f"{broken}: {sidecar} spends more than was granted: {account}")
                if account.spent != spent:
                    raise BrokenPromiseError(
                        f"{broken}: {sidecar} lost track of its spend: {account}, {spent}"
                    )
                net = max(account.granted, granted.get(key, 0)) - account.returned
                total[key] = total.get(key, 0) + net
        for key, amount in total.items():
            period, name = account_parts(key)
            stored = self.ledger[period].accounts.get(name) if period in self.ledger else None
            watermark = stored.watermark if stored is not None else 0
            if amount > watermark:
                raise BrokenPromiseError(
                    f"{promise(name)}: {amount} of {key} may be spent, its ledger holds {watermark}"
                )

    def settle_down(self) -> LeaseBook:
        """Let everyone finish under one leader without faults, and return its book."""
        self.faults = False
        self.leaders = self.leaders[-1:]
        self.reports, self.grants, self.late_writes = [], [], []
        for process in self.processes.values():
            process.stalled = False
            self.expire(process)
            for reservation in list(process.live.values()):
                self.settle(process, reservation, None)
            process.holding.want({}, {})
        self.rounds(6)
        self.pass_time(TTL + LONGEST + 1)
        self.rounds(12)
        return self.leaders[-1].book

    def rounds(self, count: int) -> None:
        """Everyone reports, the leader turns, everyone hears, a second passes; `count` times."""
        for _ in range(count):
            for process in self.processes.values():
                if self.leaders and process.holding.adopt(self.leaders[-1].book.epoch):
                    self.report(process)
            while self.reports:
                self.deliver_report(self.reports.pop(0))
            for leader in list(self.leaders):
                self.turn(leader)
            while self.grants:
                self.deliver_grant(*self.grants.pop(0))
            self.pass_time(1.0)
            self.check()
