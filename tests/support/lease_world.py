"""A small world of leaders, sidecars, model servers and a ledger store in which anything may go wrong.

Messages are lost, repeated and reordered; sidecars stall, crash at any point, restart with a journal or
without, leave and vanish; leaders stop, come back, are superseded while they go on; wall clocks jump, clocks
drift; capacity and limits come and go; writes fail after or before they happened. `lease_checks.py` checks
after every step what `guarantees.md` promises, knowing everything. `lease_replay.py` shows one history.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import Account, accounts_of, charges, counts_requests
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Entry, Life, life_from, line_of
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
    leased_endpoint,
    rate_key,
)

from support.lease_checks import Check, Checks
from support.manifests import policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
LARGE = VariantKey(ModelName("large"), "h100")
SMALL = VariantKey(ModelName("small"), "l4")
API = VariantKey(ModelName("frontier"), "api")
TOKENS = rate_key(API, "tokens")
API_AT = leased_endpoint(EndpointUrl("http://api"), API)
TOKENS_AT = leased_endpoint(EndpointUrl("http://api"), TOKENS)
ENDPOINTS = {
    EndpointUrl("http://a"): LARGE,
    EndpointUrl("http://b"): LARGE,
    EndpointUrl("http://c"): SMALL,
    API_AT: API,
    TOKENS_AT: TOKENS,
}
TTL = 10.0
LIMITS = (60, 60, 30, 90)
"""Of the budget, in nano-USD."""
TIERS = (TierName("gold"), TierName("bronze"))
START = datetime(2026, 11, 22, 12, 58, tzinfo=UTC)
NOTICES = 5.0
MINUTE = 60.0
MOST_UNDER_WAY = 12
"""Messages to or from one sidecar; older ones are lost."""


class CrashedError(Exception):
    """A process ended while it wrote its journal."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Units of a limit by the minute that a model server counted."""

    endpoint: EndpointUrl
    units: int
    at: float


@dataclass(slots=True)
class Request:
    reservation: Reservation
    charged: Mapping[AccountId, int]
    """What it costs at most."""
    sent: Sent | None
    billed: Mapping[AccountId, int] | None = None
    """What it cost, once that is known."""


@dataclass(slots=True)
class Journal:
    """A file that outlives the process, and what that process was billed in truth."""

    sidecar: SidecarId
    lines: list[str]
    bill: dict[AccountId, int]


@dataclass(slots=True)
class Process:
    """One start of a sidecar, or the end of a `former` one that crashed."""

    holding: Holding
    offset: float
    rate: float
    boot: int
    former: bool = False
    stalled: bool = False
    cut: bool = False
    """No message comes through."""
    live: dict[int, Request] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    """Within the last minute."""
    grants: list[Grant] = field(default_factory=list)
    """Under way."""
    granted: dict[AccountId, int] = field(default_factory=dict)
    """The most that any grant to it said, also one that was lost."""
    had: set[AccountId] = field(default_factory=set)
    """Accounts listed by the newest grant applied."""
    spent: dict[AccountId, int] = field(default_factory=dict)
    lines: list[str] | None = None
    """Its journal."""
    doom: int = 0
    """It crashes while it writes the n-th entry from now; 0: it does not."""
    farewell: int | None = None

    def clock(self, now: float) -> float:
        """Return its clock, which may run up to 0.4 % fast or slow."""
        return self.offset + self.rate * now


@dataclass(slots=True)
class Leader:
    book: LeaseBook


@dataclass(frozen=True, slots=True)
class Ghost:
    """A request of a crashed sidecar that its model server still works on."""

    endpoint: EndpointUrl
    until: float


def policy_of(then: Stale, limit: int, longest: float) -> Policy:
    """Return a policy with an account of every kind, in periods of an hour and of a day."""
    manifest = policy_manifest()
    spec = manifest["spec"]
    spec["limits"]["maxRequest"] = f"{longest:g}s"
    spec["budget"]["shares"] = [{"models": ["large"], "max": "50%"}]
    spec["tenants"] = {"header": "x-tenant", "declared": [{"name": "acme", "max": "40%"}]}
    spec["quotas"] = [{"models": ["large"], "requests": 25, "period": "Day"}]
    spec["judge"] = {"model": "large", "share": "20%", "budget": {"limit": 1, "period": "Day"}}
    spec["staleness"] = {"then": then.value}
    if then is Stale.FLOOR:
        spec["tiers"][0]["floor"], spec["tiers"][1]["floor"] = 2, 1
    policy = parse_policy(manifest)
    assert policy.budget is not None
    assert policy.judge is not None
    return replace(
        policy,
        budget=replace(policy.budget, limit=NanoUsd(limit)),
        judge=replace(policy.judge, limit=NanoUsd(limit // 2)),
        staleness=Staleness(max_age=TTL, then=then),
    )


class LeaseWorld:
    """`step` does one random thing and checks everything; `settle_down` lets all come to an end."""

    def __init__(self, seed: int, *, sidecars: int = 3, only: Check | None = None) -> None:
        """`only`: make no check but this."""
        self.random = random.Random(seed)
        self.now = 100.0
        self.wall = 0.0
        """Seconds that leaders' wall clocks are ahead."""
        self.wall_went_back = False
        self.longest = self.random.choice([20.0, 20.0, 2.0])
        self.policy = policy_of(self.random.choice(list(Stale)), LIMITS[0], self.longest)
        self.journalled = self.random.random() < 0.7
        self.accounts: dict[AccountName, Account] = {one.name: one for one in accounts_of(self.policy)}
        self.capacity = {endpoint: self.random.randint(1, 4) for endpoint in ENDPOINTS}
        self.ledger: dict[PeriodId, LedgerRecord] = {}
        self.late_writes: list[LedgerRecord] = []
        self.version = 0
        self.leaders: list[Leader] = []
        self.leader_down = False
        self.processes: dict[SidecarId, Process] = {}
        self.pods: dict[str, tuple[float, float]] = {}
        """Clocks by the UID of the pod."""
        self.down: list[str] = []
        """Pods whose sidecar crashed and does not run again yet."""
        self.journals: dict[str, list[Journal]] = {}
        self.boots = 0
        self.reports: list[Report] = []
        self.ghosts: list[Ghost] = []
        self.sent_by_the_dead: list[Sent] = []
        self.dead_money: dict[AccountId, int] = {}
        self.money_is_lost = False
        """Whether a process took money along that nobody can give back."""
        self.epoch = 0
        self.pods_known = True
        """Whether the newest leader knows which pods may hold an older lease."""
        self.faults = True
        self.happened: Counter[str] = Counter()
        self.trace: list[str] | None = None
        self.checks = Checks(self, only)
        self.new_leader()
        for number in range(sidecars):
            self.new_pod(f"pod{number}")

    def say(self, text: str, *values: object) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.now:9.2f}  {text.format(*values)}")

    @property
    def failovers(self) -> int:
        return self.epoch - 1

    def step(self) -> None:
        """Do one random thing, then check."""
        (name,) = self.random.choices(_NAMES, cum_weights=_WEIGHTS)
        self.do(name)

    def do(self, name: str) -> None:
        """Do one thing of `ACTIONS`, then check."""
        self.happened[name] += 1
        ACTIONS[name][1](self)
        self.checks.check()

    # Leaders.

    def documents(self) -> Documents:
        return Documents({FLEET: Document("f1", b"{}")}, {POLICY: (self.policy, Document("p1", b"{}"))})

    def new_leader(self) -> None:
        """A leader of the next epoch comes; older ones may not know yet."""
        self.epoch += 1
        may_hold = set(self.pods) if self.epoch > 1 else set()
        known = self.epoch == 1 or not self.faults or self.random.random() < 0.9
        self.pods_known = known
        book = LeaseBook(epoch=self.epoch, ttl=TTL, now=self.now, may_hold=may_hold if known else None)
        book.set_documents(self.documents())
        book.set_capacity(self._published())
        self.leaders.append(Leader(book))
        self.leader_down = False
        self.say(
            "leader {}: comes; {}", self.epoch, f"awaits {sorted(may_hold)}" if known else "knows no pods"
        )

    def fail_over(self) -> None:
        if len(self.leaders) < 3:
            self.new_leader()

    def old_leader_ends(self) -> None:
        if len(self.leaders) > 1:
            self.leaders.pop(0)

    def leader_stops(self) -> None:
        """The newest leader does nothing for a while: it stalls, or reaches nobody."""
        self.leader_down = not self.leader_down
        self.say("leader {}: {}", self.epoch, "stops" if self.leader_down else "goes on")

    def take_turn(self) -> None:
        """The newest leader prunes, opens and writes ledgers, and grants."""
        leader = self.leaders[-1]
        if self.leader_down:
            return
        book = leader.book
        book.prune(self.now)
        at = START + timedelta(seconds=self.now - 100 + self.wall)
        try:
            for policy, period in book.unopened(at):
                book.open(policy, period, self.ledger.get(period.id), self.now)
            everyone = [holder.id for holder in book.holders()]
            for to, grant in sorted(book.turn(self.now, everyone), key=lambda one: one[0]):
                self._send(to, grant)
            for record in book.due(self.now):
                self.write(leader, record)
        except ForeignEpochError:
            self._depose(leader)

    def _send(self, to: SidecarId, grant: Grant) -> None:
        process = self.processes.get(to)
        if process is None:
            return
        process.grants.append(grant)
        for key, account in grant.accounts.items():
            process.granted[key] = max(process.granted.get(key, 0), account.granted)
        self.checks.touch(to)
        if self.trace is not None:
            slots = {endpoint: (one.slots, one.floor) for endpoint, one in grant.slots.items()}
            money = {
                key.removeprefix(f"{POLICY}/"): (one.granted, one.keep) for key, one in grant.accounts.items()
            }
            self.say("leader {}: grants {} #{}: {} {}", grant.epoch, to.boot, grant.sequence, slots, money)

    def old_leader_writes(self) -> None:
        """A leader whose time is over grants nothing more, but writes that it had begun may still arrive."""
        leader = self.random.choice(self.leaders)
        if leader is self.leaders[-1] and self.leader_down:
            return
        try:
            for record in leader.book.due(self.now):
                self.write(leader, record)
        except ForeignEpochError:
            self._depose(leader)

    def _depose(self, leader: Leader) -> None:
        self.say("leader {}: finds that another leads, and ends", leader.book.epoch)
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
            self.store(record)
            self.say("the answer to that write is lost")
        elif fate < 0.94:
            self.late_writes.append(record)
        leader.book.found(record, self.ledger.get(record.period))

    def store(self, record: LedgerRecord) -> str | None:
        """Write a record if the store still holds the version that it replaces; return its version."""
        stored = self.ledger.get(record.period)
        if (stored.version if stored is not None else None) != record.version:
            self.say("ledger: epoch {} writes {}: refused", record.epoch, record.period)
            return None
        return self.put(record)

    def put(self, record: LedgerRecord) -> str:
        self.version += 1
        self.ledger[record.period] = replace(record, version=str(self.version))
        if self.trace is not None:
            marks = {name: stored.watermark for name, stored in record.accounts.items()}
            self.say("ledger: epoch {} writes {}: {}", record.epoch, record.period, marks)
        return str(self.version)

    def late_write_arrives(self) -> None:
        if self.late_writes:
            self.store(self.late_writes.pop(self.random.randrange(len(self.late_writes))))

    def wall_clock_jumps(self) -> None:
        jump = self.random.choice([-3700.0, -100.0, -1.0, 1.0, 100.0, 3700.0])
        self.wall += jump
        self.wall_went_back = self.wall_went_back or jump < 0
        self.say("wall clocks are {} s ahead", self.wall)

    def change_capacity(self) -> None:
        endpoint = self.random.choice(list(ENDPOINTS))
        slots = self.random.randint(0, 4)
        self.checks.capacity_changes(endpoint, slots)
        self.capacity[endpoint] = slots
        self.say("{} has {} slots", endpoint, slots)
        for leader in self.leaders:
            leader.book.set_capacity(self._published())

    def _published(self) -> dict[ObjectKey, dict[VariantKey, dict[EndpointUrl, int]]]:
        variants: dict[VariantKey, dict[EndpointUrl, int]] = {variant: {} for variant in ENDPOINTS.values()}
        for endpoint, slots in self.capacity.items():
            if slots:
                variants[ENDPOINTS[endpoint]][endpoint] = slots
        return {FLEET: variants}

    def change_limits(self) -> None:
        """The policy is edited; sidecars get to know it at once or with a later grant."""
        limit = self.random.choice(LIMITS)
        self.policy = policy_of(self.policy.staleness.then, limit, self.longest)
        accounts = {one.name: one for one in accounts_of(self.policy)}
        self.checks.limits_change(accounts)
        self.accounts = accounts
        self.say("the budget is {}", limit)
        for leader in self.leaders:
            leader.book.set_documents(self.documents())

    # Pods and processes.

    def new_pod(self, uid: str) -> None:
        self.pods[uid] = (self.random.uniform(-50, 50), self.random.uniform(0.996, 1.004))
        self.start(uid)

    def start(self, uid: str) -> None:
        """A sidecar starts, and finishes the starts before it whose journals it finds."""
        self.boots += 1
        sidecar = SidecarId("ml", uid, uid, f"boot{self.boots}")
        offset, rate = self.pods[uid]
        process = Process(Holding(sidecar), offset, rate, self.boots)
        self.say("{}: {} starts", uid, sidecar.boot)
        if self.journalled:
            process.lines = list(Life(sidecar, "m").lines())
            process.holding = Holding(sidecar, record=self._writer(process))
        process.holding.follow(self.policy)
        self._run(process)
        for journal in self.journals.pop(uid, []):
            life = life_from(journal.lines)
            now = process.clock(self.now)
            former = Process(Holding(journal.sidecar), offset, rate, self.boots, former=True)
            former.lines, former.spent = list(life.lines()), journal.bill
            former.holding = Holding.finishing(
                life, now, settles_at=now + NOTICES, record=self._writer(former)
            )
            former.had.update(former.holding.accounts())
            self.say("{}: finishes {}", uid, journal.sidecar.boot)
            self._run(former)

    def _run(self, process: Process) -> None:
        self.processes[process.holding.sidecar] = process
        self.checks.touch(process.holding.sidecar)
        self.connect(process)

    def _writer(self, process: Process) -> Callable[[Entry], None]:
        """Return what appends to a process's journal, and ends the process there if it is doomed."""
        lines = process.lines
        assert lines is not None

        def write(entry: Entry) -> None:
            line = line_of(entry)
            process.doom -= 1
            if process.doom == 0:
                fate = self.random.random()
                if fate < 0.6:
                    lines.append(line if fate < 0.3 else line[: self.random.randrange(len(line))])
                raise CrashedError
            lines.append(line)

        return write

    def crash(self, uid: str) -> None:
        """The container ends; its model servers notice a little later. Its pod stays, and its journals."""
        for sidecar in [sidecar for sidecar in self.processes if sidecar.uid == uid]:
            process = self.processes.pop(sidecar)
            self.say("{}: {} crashes", uid, sidecar.boot)
            bill = process.spent
            if not process.former:
                self._bury(process)
                for key, amount in bill.items():
                    self.dead_money[key] = self.dead_money.get(key, 0) + amount
            if process.lines is not None:
                self.journals.setdefault(uid, []).append(Journal(sidecar, process.lines, bill))
            elif process.granted:
                self.money_is_lost = True
            self.checks.touch(sidecar)
            for leader in self.leaders:
                if self.random.random() < 0.7:
                    leader.book.part(sidecar)
        if uid in self.pods:
            self.down.append(uid)

    def _bury(self, process: Process) -> None:
        """Bill the requests of a process that ended at the most that they can have cost."""
        for request in process.live.values():
            if request.reservation.deadline > process.clock(self.now) and request.billed is None:
                until = self.now + self.random.uniform(0, NOTICES * 0.99)
                self.ghosts.append(Ghost(request.reservation.endpoint, until))
            self._bill(process, request.billed if request.billed is not None else request.charged)
        self.sent_by_the_dead.extend(process.sent)

    def crash_somewhere(self) -> None:
        uids = [sidecar.uid for sidecar in self.processes]
        if uids:
            self.crash(self.random.choice(uids))

    def doom_somebody(self) -> None:
        """A process will crash while it writes its journal."""
        process = self._somebody()
        if process is not None and process.lines is not None:
            process.doom = self.random.randint(1, 3)

    def restart(self) -> None:
        if self.down:
            self.start(self.down.pop(0))

    def delete_pod(self) -> None:
        """A pod goes, its journals with it, and the API server says so."""
        if not self.pods:
            return
        self._end_pod(self.random.choice(list(self.pods)))
        self.new_pod(f"pod-after-{self.boots}")

    def _end_pod(self, uid: str) -> None:
        del self.pods[uid]
        self.crash(uid)
        self.say("{}: is gone", uid)
        if uid in self.down:
            self.down.remove(uid)
        self.money_is_lost = self.money_is_lost or uid in self.journals
        self.journals.pop(uid, None)
        for leader in self.leaders:
            leader.book.forget(uid, self.now)

    def leave(self) -> None:
        process = self._somebody()
        if process is not None:
            process.holding.leave(process.clock(self.now))
            self.say("{}: leaves", process.holding.sidecar.boot)
            self.checks.touch(process.holding.sidecar)

    def stall(self) -> None:
        """A process is stopped, or its machine suspended, or it goes on; its clock counts that time."""
        if self.processes:
            process = self.random.choice(list(self.processes.values()))
            process.stalled = not process.stalled
            self.say("{}: {}", process.holding.sidecar.boot, "stalls" if process.stalled else "goes on")
            if not process.stalled:
                self._guarded(process, self._expire)

    def cut(self) -> None:
        """A process loses its network, or has it again."""
        if self.processes:
            process = self.random.choice(list(self.processes.values()))
            process.cut = not process.cut
            self.say("{}: {}", process.holding.sidecar.boot, "is cut off" if process.cut else "is back")

    def _somebody(self) -> Process | None:
        """Return a process that runs and is not the end of a former one."""
        awake = [one for one in self.processes.values() if not (one.stalled or one.former)]
        return self.random.choice(awake) if awake else None

    def _guarded(self, process: Process, act: Callable[[Process], None]) -> None:
        """Let a process do something, in the middle of which it may crash."""
        self.checks.touch(process.holding.sidecar)
        try:
            act(process)
        except CrashedError:
            self.say("{}: crashes while it writes its journal", process.holding.sidecar.boot)
            self.happened["crash in the middle"] += 1
            self.money_is_lost = True  # what it had begun counts as if it had happened
            self.crash(process.holding.sidecar.uid)

    # Messages.

    def connect_somebody(self) -> None:
        if self.processes:
            self.connect(self.random.choice(list(self.processes.values())))

    def connect(self, process: Process) -> None:
        """A sidecar opens a stream to some leader, which may be an old one."""
        if process.cut or process.stalled:
            return
        leader = self.random.choice([*self.leaders, self.leaders[-1], self.leaders[-1]])
        process.holding.alone()
        if process.holding.adopt(leader.book.epoch):
            leader.book.connect(process.holding.sidecar)
            self.checks.touch(process.holding.sidecar)

    def report_somebody(self) -> None:
        awake = [process for process in self.processes.values() if not process.stalled]
        if awake:
            self._guarded(self.random.choice(awake), self.report)

    def report(self, process: Process) -> None:
        holding = process.holding
        report = holding.report(
            process.clock(self.now), demand=NO_DEMAND, fleet_version="", policy_version=""
        )
        if process.former and holding.idle():
            process.farewell = report.sequence
        if not process.cut:
            self.reports.append(report)
        if self.trace is not None:
            kept = {endpoint: (state.in_flight, state.kept) for endpoint, state in report.slots.items()}
            text = "{}: reports #{} of epoch {}, applied {}: {}"
            self.say(text, holding.sidecar.boot, report.sequence, report.epoch, report.applied, kept)

    def report_arrives(self) -> None:
        if self.reports:
            at = self.random.randrange(len(self.reports)) if self.random.random() < 0.3 else -1
            again = self.random.random() < 0.1
            self.deliver_report(self.reports[at] if again else self.reports.pop(at))

    def deliver_report(self, report: Report) -> None:
        for leader in self.leaders:
            if leader is self.leaders[-1] and self.leader_down:
                continue
            if leader.book.hear(report, self.now):
                self.say("leader {}: hears {} #{}", leader.book.epoch, report.sidecar.boot, report.sequence)
                leader.book.follow(report.sidecar, Follows(POLICY, FLEET))
                if report.leaving:
                    continue  # perhaps a former start
                for earlier in leader.book.starts(report.sidecar.uid):
                    if earlier not in self.processes:
                        leader.book.replaced(earlier, self.now)

    def grant_arrives(self) -> None:
        heard = [one for one in self.processes.values() if one.grants and not (one.stalled or one.cut)]
        if not heard:
            return
        process = self.random.choice(heard)
        at = self.random.randrange(len(process.grants)) if self.random.random() < 0.3 else -1
        grant = process.grants[at] if self.random.random() < 0.1 else process.grants.pop(at)
        self._guarded(process, lambda one: self.deliver_grant(one, grant))

    def deliver_grant(self, process: Process, grant: Grant) -> None:
        holding = process.holding
        if not holding.apply(grant, process.clock(self.now)):
            return
        self.say("{}: applies #{}", holding.sidecar.boot, grant.sequence)
        self._forget_ended_accounts(process)
        if not process.former:
            holding.follow(self.policy)
        elif process.farewell is not None and grant.answers >= process.farewell:
            process.farewell = None
            if not holding.has_money():
                self.say("{}: is finished", holding.sidecar.boot)
                del self.processes[holding.sidecar]
                for leader in self.leaders:
                    leader.book.part(holding.sidecar)

    def _forget_ended_accounts(self, process: Process) -> None:
        """An account that is not listed any more is settled; listed again, it begins anew."""
        present = process.holding.accounts()
        for key in process.had - present:
            process.granted.pop(key, None)
            if not process.former:
                amount = process.spent.pop(key, 0)
                self.dead_money[key] = self.dead_money.get(key, 0) + amount
        process.had = set(present)

    def lose_messages(self) -> None:
        self.reports = self.reports[-MOST_UNDER_WAY:]
        for sidecar, process in self.processes.items():
            if len(process.grants) > 3:
                process.grants = process.grants[-3:]
                self.checks.touch(sidecar)

    # Requests.

    def reserve_somewhere(self) -> None:
        process = self._somebody()
        if process is not None:
            self._guarded(process, self.reserve)

    def reserve(self, process: Process) -> None:
        now = process.clock(self.now)
        tier = self.random.choice(TIERS)
        free = [endpoint for endpoint, slots in process.holding.free(now, tier).items() if slots > 0]
        if not free:
            return
        amount = NanoUsd(self.random.randint(0, 6))
        endpoint = self.random.choice(free)
        deadline = now + self.random.uniform(0, self.longest * 0.99)
        tenant = self.random.choice([None, "acme"])
        units = {TOKENS_AT: self.random.randint(1, 2)} if endpoint == API_AT else {}
        judging = self.random.random() < 0.2
        due = charges(self.accounts.values(), ENDPOINTS[endpoint].model, tenant, amount, judging=judging)
        taken = process.holding.reserve(now, endpoint, amount, deadline, charges=due, tier=tier, rates=units)
        if not isinstance(taken, Reservation):
            return
        names = {account_parts(key)[1]: key for key in taken.accounts}
        if names.keys() != due.keys():
            self.checks.fail(Check.CHARGE, f"{sorted(names)} were charged instead of {sorted(due)}")
        sent = Sent(TOKENS_AT, units[TOKENS_AT], self.now) if units else None
        if sent is not None:
            process.sent.append(sent)
        charged = {key: due[name] for name, key in names.items()}
        process.live[taken.id] = Request(taken, charged, sent)
        self.say("{}: sends {} to {}, at most {}", process.holding.sidecar.boot, taken.id, endpoint, amount)

    def end_something(self) -> None:
        """A request ends: it is settled, or it is found never to have been sent."""
        busy = [one for one in self.processes.values() if one.live and not one.stalled]
        if not busy:
            return
        process = self.random.choice(busy)
        request = self.random.choice(list(process.live.values()))
        if self.random.random() < 0.1:
            self._guarded(process, lambda one: self.cancel(one, request))
            return
        known = self.random.random() < 0.7
        actual = NanoUsd(self.random.randint(0, request.reservation.amount)) if known else None
        self._guarded(process, lambda one: self.settle(one, request, actual))

    def cancel(self, process: Process, request: Request) -> None:
        """The request was never sent."""
        request.billed = {}
        if request.sent is not None and request.sent in process.sent:
            process.sent.remove(request.sent)
        process.holding.cancel(request.reservation.id, process.clock(self.now))
        del process.live[request.reservation.id]
        self.say("{}: cancels {}", process.holding.sidecar.boot, request.reservation.id)

    def settle(self, process: Process, request: Request, actual: NanoUsd | None) -> None:
        now, number = process.clock(self.now), request.reservation.id
        request.billed = self._cost(request, actual)
        first = process.holding.settle(number, actual, now)
        self._ends(process, request)
        again = process.holding.settle(number, actual, now)
        if not first.first or again.first or again.charged:
            self.checks.fail(Check.REPEAT, f"{process.holding.sidecar.boot} settled {number} twice")

    def _cost(self, request: Request, actual: NanoUsd | None) -> Mapping[AccountId, int]:
        if actual is None:
            return request.charged
        quotas = {key for key in request.charged if counts_requests(account_parts(key)[1])}
        return {key: 1 if key in quotas else actual for key in request.charged}

    def _ends(self, process: Process, request: Request) -> None:
        del process.live[request.reservation.id]
        assert request.billed is not None
        self._bill(process, request.billed)
        self.say("{}: settles {}", process.holding.sidecar.boot, request.reservation.id)

    def _bill(self, process: Process, amounts: Mapping[AccountId, int]) -> None:
        for key, amount in amounts.items():
            process.spent[key] = process.spent.get(key, 0) + amount

    def want_something(self) -> None:
        process = self._somebody()
        if process is not None:
            self.checks.touch(process.holding.sidecar)
            wants = {variant: self._want() for variant in (LARGE, SMALL, API, TOKENS)}
            process.holding.want(wants, self._needs())
            process.holding.give_back(process.clock(self.now))

    def _want(self) -> Want:
        slots = self.random.randint(0, 6)
        return Want(slots, (Bid(1.0, self.random.random(), slots),) if slots else ())

    def _needs(self) -> dict[AccountName, Need]:
        """Return what requests of about the same amounts would charge most of the accounts."""
        total = self.random.choice([0, 0, 3, 6, 12, 40])
        first = self.random.randint(0, total)
        chosen = [name for name in self.accounts if self.random.random() < 0.9]
        return {name: Need(total, first, 1.0, self.random.random()) for name in chosen}

    # Time.

    def time_passes(self) -> None:
        self.pass_time(self.random.choice(_PAUSES))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.checks.time_passed()
        self.ghosts = [ghost for ghost in self.ghosts if ghost.until > self.now]
        self.sent_by_the_dead = [one for one in self.sent_by_the_dead if one.at + MINUTE > self.now]
        for process in list(self.processes.values()):
            if process.sent:
                process.sent = [one for one in process.sent if one.at + MINUTE > self.now]
            if not process.stalled and not process.holding.idle():
                self._guarded(process, self._expire)

    def _expire(self, process: Process) -> None:
        now = process.clock(self.now)
        if process.former:
            process.holding.expire(now)
            return
        for request in process.live.values():
            if request.reservation.deadline <= now:
                request.billed = request.charged
        for reservation, _ in process.holding.expire(now):
            self._ends(process, process.live[reservation.id])

    # What the model servers know.

    def in_flight(self) -> dict[EndpointUrl, int]:
        """Return the requests that each model server works on."""
        running: dict[EndpointUrl, int] = {}
        for ghost in self.ghosts:
            running[ghost.endpoint] = running.get(ghost.endpoint, 0) + 1
        for process in self.processes.values():
            now = process.clock(self.now)
            for request in process.live.values():
                if request.reservation.deadline > now:
                    endpoint = request.reservation.endpoint
                    running[endpoint] = running.get(endpoint, 0) + 1
        return running

    def sent_within_a_minute(self) -> dict[EndpointUrl, int]:
        """Return the units that were used of each limit by the minute in the last one."""
        units: dict[EndpointUrl, int] = {}
        for sent in self.sent_by_the_dead:
            units[sent.endpoint] = units.get(sent.endpoint, 0) + sent.units
        for process in self.processes.values():
            for sent in process.sent:
                units[sent.endpoint] = units.get(sent.endpoint, 0) + sent.units
        return units

    # The end.

    def settle_down(self) -> LeaseBook:
        """Let everyone finish under one leader without faults, and return its book."""
        self.say("all settles down")
        self.faults = False
        self.leaders = self.leaders[-1:]
        self.leader_down = False
        if not self.pods_known:
            self.new_leader()  # floors of pods that nobody knows stay counted as long as a leader leads
            self.leaders = self.leaders[-1:]
        self.reports, self.late_writes = [], []
        while self.down:
            self.restart()
        for sidecar, process in list(self.processes.items()):
            self.checks.touch(sidecar)
            process.grants, process.doom = [], 0
            process.stalled = process.cut = False
            self._expire(process)
            for request in list(process.live.values()):
                self.settle(process, request, None)
            process.holding.want({}, {})
        self.rounds(6)
        staying = {sidecar.uid for sidecar, one in self.processes.items() if not one.holding.leaving}
        for uid in [uid for uid in self.pods if uid not in staying]:
            self._end_pod(uid)  # its sidecar left because the pod was to end
        self.pass_time(MINUTE + TTL + self.longest + 1)
        self.rounds(12)
        return self.leaders[-1].book

    def rounds(self, count: int) -> None:
        """Everyone reports, the leader turns, everyone hears, a second passes; `count` times."""
        for _ in range(count):
            for sidecar, process in self.processes.items():
                self.checks.touch(sidecar)
                if process.holding.adopt(self.leaders[-1].book.epoch):
                    self.report(process)
            while self.reports:
                self.deliver_report(self.reports.pop(0))
            self.take_turn()
            for process in list(self.processes.values()):
                self.checks.touch(process.holding.sidecar)
                while process.grants:
                    self.deliver_grant(process, process.grants.pop(0))
            self.pass_time(1.0)
            self.checks.check()

    def want_all_slots(self, taker: Process) -> dict[EndpointUrl, int]:
        """After `settle_down`: return the slots that one process gets that wants, and uses, all."""
        got = dict.fromkeys(self.capacity, 0)
        taker.holding.want({variant: Want(100) for variant in ENDPOINTS.values()}, {})
        for _ in range(12):  # the others' slots are recalled, come back, and are granted
            self.rounds(1)
            now = taker.clock(self.now)
            for endpoint, slots in dict(taker.holding.free(now)).items():
                for _ in range(slots):
                    taker.holding.reserve(now, endpoint, NanoUsd(0), now + 1_000.0, charges={})
                    got[endpoint] += 1
            got[TOKENS_AT] = taker.holding.free_units(now).get(TOKENS_AT, 0)
            if got == self.capacity:
                break
        return got

    def want_all_money(self, taker: Process) -> Mapping[AccountName, int]:
        """After `settle_down`: return the room in each account that one process gets that wants all."""
        needs = {name: Need(account.limit, 1, 1.0, 1.0) for name, account in self.accounts.items()}
        taker.holding.want({}, needs)
        self.rounds(10)
        now = taker.clock(self.now)
        return taker.holding.room(now) if taker.holding.period_ends(now) is not None else {}


_PAUSES = [*[0.1] * 8, *[0.5] * 8, *[1.0] * 8, 3.0, 3.0, TTL, TTL + 21.0, 52.0, 60.1]

ACTIONS: Mapping[str, tuple[float, Callable[[LeaseWorld], None]]] = {
    "the leader's turn": (20, LeaseWorld.take_turn),
    "a report arrives": (18, LeaseWorld.report_arrives),
    "a grant arrives": (18, LeaseWorld.grant_arrives),
    "a report": (12, LeaseWorld.report_somebody),
    "a request": (12, LeaseWorld.reserve_somewhere),
    "an end": (5, LeaseWorld.end_something),
    "a want": (5, LeaseWorld.want_something),
    "a stream": (3, LeaseWorld.connect_somebody),
    "time": (6, LeaseWorld.time_passes),
    "a restart": (1, LeaseWorld.restart),
    # Faults.
    "messages are lost": (4, LeaseWorld.lose_messages),
    "an old leader writes": (2, LeaseWorld.old_leader_writes),
    "a late write": (0.5, LeaseWorld.late_write_arrives),
    "capacity changes": (0.5, LeaseWorld.change_capacity),
    "a failover": (0.3, LeaseWorld.fail_over),
    "an old leader ends": (0.1, LeaseWorld.old_leader_ends),
    "the leader stops": (0.2, LeaseWorld.leader_stops),
    "a crash": (0.2, LeaseWorld.crash_somewhere),
    "a crash to come": (0.3, LeaseWorld.doom_somebody),
    "a pod is deleted": (0.12, LeaseWorld.delete_pod),
    "a sidecar leaves": (0.12, LeaseWorld.leave),
    "a stall": (0.3, LeaseWorld.stall),
    "a partition": (0.3, LeaseWorld.cut),
    "the wall clock jumps": (0.1, LeaseWorld.wall_clock_jumps),
    "limits change": (0.15, LeaseWorld.change_limits),
}
"""What may happen, and how often of the sum."""

_NAMES = list(ACTIONS)
_WEIGHTS = list(accumulate(weight for weight, _ in ACTIONS.values()))
