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
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows, held_by
from modelfleet_core.leasing.holding import Holding, Reservation
from modelfleet_core.leasing.ledger import LedgerRecord
from modelfleet_core.leasing.messages import Document, Grant, Report, SidecarId, Want
from modelfleet_core.leasing.purse import ForeignEpochError
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, ObjectKey, PeriodId, VariantKey

from support.manifests import policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
LARGE = VariantKey(ModelName("large"), "h100")
SMALL = VariantKey(ModelName("small"), "l4")
ENDPOINTS = {EndpointUrl("http://a"): LARGE, EndpointUrl("http://b"): LARGE, EndpointUrl("http://c"): SMALL}
TTL = 10.0
LONGEST = 20.0
LIMIT = 60
START = datetime(2026, 11, 22, 12, 58, tzinfo=UTC)
NOTICES = 5.0


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
    spent: dict[PeriodId, int] = field(default_factory=dict)

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


def documents() -> Documents:
    manifest = policy_manifest()
    manifest["spec"]["limits"]["maxRequest"] = f"{LONGEST:g}s"
    policy = parse_policy(manifest)
    assert policy.budget is not None
    budget = replace(policy.budget, limit=NanoUsd(LIMIT))
    return Documents(
        {FLEET: Document("f1", b"{}")}, {POLICY: (replace(policy, budget=budget), Document("p1", b"{}"))}
    )


class LeaseWorld:
    """`step` does one random thing and checks everything; `settle_down` lets all come to an end."""

    def __init__(self, seed: int, *, sidecars: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.documents = documents()
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
        self.dead_money: dict[PeriodId, int] = {}
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
        self.connect(self.processes[sidecar])

    def crash(self, sidecar: SidecarId) -> None:
        """The process ends; its model servers notice a little later. Its pod stays."""
        process = self.processes.pop(sidecar)
        for reservation in process.live.values():
            if reservation.deadline > process.clock(self.now):
                until = self.now + self.random.uniform(0, NOTICES * 0.99)
                self.ghosts.append(Ghost(reservation.endpoint, until))
            if reservation.period is not None:
                self._lose(reservation.period, reservation.amount)
        for period, spent in process.spent.items():
            self._lose(period, spent)
        self.grants = [(to, grant) for to, grant in self.grants if to != sidecar]

    def _lose(self, period: PeriodId, amount: int) -> None:
        self.dead_money[period] = self.dead_money.get(period, 0) + amount

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
        free = [endpoint for endpoint, slots in process.holding.free(now).items() if slots > 0]
        if not free:
            return
        amount = NanoUsd(self.random.randint(0, 6))
        endpoint = self.random.choice(free)
        deadline = now + self.random.uniform(0, LONGEST * 0.99)
        taken = process.holding.reserve(now, endpoint, amount, deadline)
        if isinstance(taken, Reservation):
            self.reserved_ever += 1
            process.live[taken.id] = taken

    def settle(self, process: Process, reservation: Reservation, actual: NanoUsd | None) -> None:
        first = process.holding.settle(reservation.id, actual)
        again = process.holding.settle(reservation.id, actual)
        if not first.first or again.first or again.charged:
            raise BrokenPromiseError("G11: settling twice counted twice")
        self._book(process, reservation, first.charged)

    def _book(self, process: Process, reservation: Reservation, charged: int) -> None:
        del process.live[reservation.id]
        if reservation.period is not None:
            process.spent[reservation.period] = process.spent.get(reservation.period, 0) + charged

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
            known = self.random.random() < 0.7
            actual = NanoUsd(self.random.randint(0, reservation.amount)) if known else None
            self.settle(process, reservation, actual)
        elif chance < 0.93:
            wants = {variant: Want(self.random.randint(0, 6)) for variant in (LARGE, SMALL)}
            process.holding.want(wants, NanoUsd(self.random.choice([0, 0, 3, 6, 12, 40])))
        else:
            self.connect(process)

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
            self.processes[sidecar].holding.leave()
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
            if holding.live(now):
                for endpoint, state in holding.report_slots().items():
                    most[endpoint] = max(most[endpoint], state.kept)
            for grant in self.applicable(sidecar, holding):
                if now < grant.report_sent_at + grant.ttl and not holding.leaving:
                    for endpoint, granted in grant.slots.items():
                        most[endpoint] = max(most[endpoint], granted.slots)
            for endpoint, slots in most.items():
                total[endpoint] += slots
        return total

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
            if not recovering and all(held.get(endpoint, 0) <= slots for held in counted[-1:]):
                self.allowed[endpoint] = slots  # the leader saw its recalls heeded: the exception is over
        for period, record in self.ledger.items():
            if record.watermark > LIMIT:
                raise BrokenPromiseError(f"G3: the ledger of {period} is over its limit")
        self.check_money()

    def check_money(self) -> None:
        total = dict(self.dead_money)
        for sidecar, process in self.processes.items():
            granted: dict[PeriodId, int] = {}
            for grant in self.applicable(sidecar, process.holding):
                for period, account_grant in grant.accounts.items():
                    granted[period] = max(granted.get(period, 0), account_grant.granted)
            for period in granted.keys() | process.spent.keys() | process.holding.periods():
                account = process.holding.account(period)
                spent = process.spent.get(period, 0)
                if account is None:
                    total[period] = total.get(period, 0) + max(spent, granted.get(period, 0))
                    continue
                if account.spent + account.reserved > account.granted - account.returned:
                    raise BrokenPromiseError(f"G3: {sidecar} spends more than was granted: {account}")
                if account.spent != spent:
                    raise BrokenPromiseError(f"G3: {sidecar} lost track of its spend: {account}, {spent}")
                net = max(account.granted, granted.get(period, 0)) - account.returned
                total[period] = total.get(period, 0) + net
        for period, amount in total.items():
            watermark = self.ledger[period].watermark if period in self.ledger else 0
            if amount > watermark:
                raise BrokenPromiseError(
                    f"G3: {amount} of {period} may be spent, its ledger holds {watermark}"
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
            process.holding.want({}, NanoUsd(0))
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
