"""Measures what stays idle after each fault, and for how long: the tables of `docs/leases.md`.

The leader's lease book and the sidecars' holdings run in virtual time. One sidecar has all slots of an
endpoint and money, with requests in flight; another waits for all slots and then for all money. A fault
happens to the first one, to the leader or to the clock; measured is how long the other waits, and what it
never gets.

    python benchmarks/worst_case.py
    python benchmarks/worst_case.py --json out/worst_case.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Life, LivedAccount, TakenUp
from modelfleet_core.leasing.ledger import CHUNKS, LedgerRecord
from modelfleet_core.leasing.messages import Bid, Document, Need, SidecarId, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES
from modelfleet_core.manifests import parse_policy
from modelfleet_core.policy import Policy, Stale, Staleness
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, ObjectKey, PeriodId, VariantKey
from support.manifests import policy_manifest

FLEET, POLICY = ObjectKey("ml", "chat"), ObjectKey("ml", "assistant")
LARGE = VariantKey(ModelName("large"), "h100")
SERVER = EndpointUrl("http://large")
SLOTS = 8
FLOOR = 2
TTL = 30.0
LONGEST = 120.0
CENT = 10_000_000
"""Nano-USD."""
LIMIT = 1_280 * CENT
CHUNK = LIMIT // CHUNKS
RESERVE = 5 * CENT
"""Of each request in flight; it costs a fifth of that."""
IN_FLIGHT = 4
GRANTED = 100 * CENT
STEP = 0.5
START = datetime(2026, 11, 22, 12, 10, tzinfo=UTC)
FAILOVER = 15.0
"""Seconds from a leader's crash to the next one's first turn, as the Lease's duration gives it."""
RESTART = 2.0
"""Seconds from a container's crash to its next start."""
PATIENCE = 400.0


def policy_of(then: Stale) -> Policy:
    """Return the policy of every scenario; its two tiers have a floor of one slot each if `then` is Floor."""
    manifest = policy_manifest()
    for tier in manifest["spec"]["tiers"]:
        tier["floor"] = FLOOR // 2
    policy = parse_policy(manifest)
    budget = policy.budget
    if budget is None:
        raise RuntimeError("the policy of the stage has no budget")
    return replace(
        policy,
        budget=replace(budget, limit=NanoUsd(LIMIT)),
        limits=replace(policy.limits, max_request=LONGEST),
        staleness=Staleness(TTL, then),
    )


class Stage:
    """One leader and its sidecars, which all speak every `STEP` seconds unless kept from it."""

    def __init__(self, then: Stale = Stale.REJECT) -> None:
        self.now = 0.0
        self.wall = 0.0
        self.policy = policy_of(then)
        self.slots = SLOTS
        self.ledger: dict[PeriodId, LedgerRecord] = {}
        self.version = 0
        self.sidecars: dict[str, Holding] = {}
        self.silent: set[str] = set()
        self.book: LeaseBook | None = None
        self.lead(1, ())

    def lead(self, epoch: int, may_hold: tuple[str, ...]) -> LeaseBook:
        """A leader starts."""
        self.book = book = LeaseBook(epoch=epoch, ttl=TTL, now=self.now, may_hold=may_hold)
        book.set_documents(
            Documents({FLEET: Document("f", b"{}")}, {POLICY: (self.policy, Document("p", b"{}"))})
        )
        self.publish(self.slots)
        return book

    def leading(self) -> LeaseBook:
        if self.book is None:
            raise RuntimeError("nobody leads")
        return self.book

    def publish(self, slots: int) -> None:
        self.slots = slots
        if self.book is not None:
            self.book.set_capacity({FLEET: {LARGE: {SERVER: slots} if slots else {}}})

    def join(self, name: str, boot: str = "1", life: Life | None = None) -> Holding:
        who = SidecarId("ml", name, name, boot)
        if life is None:
            holding = Holding(who)
        else:
            holding = Holding.finishing(life, self.now, settles_at=self.now + UPSTREAM_NOTICES)
        holding.follow(self.policy)
        self.sidecars[f"{name}/{boot}"] = holding
        return holding

    def round(self) -> None:
        book = self.book
        speaking = {key: one for key, one in self.sidecars.items() if key not in self.silent}
        for holding in self.sidecars.values():
            holding.expire(self.now)
        if book is not None:
            for holding in speaking.values():
                if holding.adopt(book.epoch):
                    report = holding.report(self.now, demand=NO_DEMAND, fleet_version="", policy_version="")
                    if book.hear(report, self.now):
                        book.follow(holding.sidecar, Follows(POLICY, FLEET))
            self._turn(book, {holding.sidecar: holding for holding in speaking.values()})
        self.now += STEP

    def _turn(self, book: LeaseBook, ready: Mapping[SidecarId, Holding]) -> None:
        book.prune(self.now)
        for policy, period in book.unopened(START + timedelta(seconds=self.now + self.wall)):
            book.open(policy, period, self.ledger.get(period.id), self.now)
        for record in book.due(self.now):
            self.version += 1
            self.ledger[record.period] = replace(record, version=str(self.version))
            book.written(record, str(self.version))
        for to, grant in book.turn(self.now, ready.keys()):
            ready[to].apply(grant, self.now)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.round()

    def seconds_until(self, condition: Callable[[], bool]) -> float | None:
        """Return how long it takes until `condition` holds; None: longer than `PATIENCE`."""
        since = self.now
        while not condition():
            if self.now - since > PATIENCE:
                return None
            self.round()
        return self.now - since


def busy_stage(then: Stale = Stale.REJECT) -> tuple[Stage, Holding, Holding]:
    """Return a stage on which `a` has all slots, money and requests in flight, and `b` waits for slots."""
    stage = Stage(then)
    a, b = stage.join("a"), stage.join("b")
    a.want({LARGE: Want(SLOTS, (Bid(1.0, 1.0, SLOTS),))}, {BUDGET: Need(GRANTED, RESERVE, 1.0, 1.0)})
    stage.pass_time(3.0)
    for _ in range(IN_FLIGHT):
        taken = a.reserve(stage.now, SERVER, NanoUsd(RESERVE), stage.now + LONGEST, charges={BUDGET: RESERVE})
        if not isinstance(taken, Reservation):
            raise TypeError(f"the stage is not as it should be: {taken}")
    left = GRANTED - IN_FLIGHT * RESERVE
    a.want({LARGE: Want(SLOTS, (Bid(1.0, 1.0, SLOTS),))}, {BUDGET: Need(left, RESERVE, 1.0, 1.0)})
    stage.pass_time(1.0)
    b.want({LARGE: Want(SLOTS, (Bid(1.0, 0.5, SLOTS),))}, {})
    stage.pass_time(1.0)
    return stage, a, b


@dataclass(frozen=True, slots=True)
class Row:
    fault: str
    waits: str
    """Formula of how long slots of the first sidecar are idle."""
    seconds: float | None
    """None: they stay idle longer than `PATIENCE`."""
    idle: int
    """Slots that stay idle then."""
    money: str
    """Formula of what nobody can spend any more in this period, though no model server bills it."""
    cents: float


def measured(
    stage: Stage, b: Holding, fault: str, waits: str, money: str, *, requests: int, floor: int = 0
) -> Row:
    """Let `b` wait for all slots but a `floor`, then for all money; `requests` were billed so far."""

    def has() -> int:
        return b.free(stage.now).get(SERVER, 0)

    seconds = stage.seconds_until(lambda: has() >= stage.slots - floor)
    idle = stage.slots - has()
    b.want({}, {BUDGET: Need(LIMIT, 1, 1.0, 1.0)})
    stage.pass_time(PATIENCE / 2)
    billed = requests * RESERVE // 5
    unspendable = LIMIT - b.room(stage.now).get(BUDGET, 0) - billed
    return Row(fault, waits, seconds, idle, money, unspendable / CENT)


def crash(*, journal: bool) -> Row:
    stage, a, b = busy_stage()
    life = Life(a.sidecar, "m")
    states = {key: a.account(key) for key in a.accounts()}
    life.accounts = {
        key: LivedAccount(state.granted, state.spent, state.returned)
        for key, state in states.items()
        if state
    }
    for number in range(IN_FLIGHT):
        charged = {key: RESERVE for key in life.accounts if key.endswith(BUDGET)}
        life.unsettled[number + 1] = TakenUp(number + 1, SERVER, charged, {}, stage.now)
    life.reports = 1_000
    del stage.sidecars["a/1"]
    stage.pass_time(RESTART)
    stage.join("a", "2")
    if journal:
        stage.join("a", "1", life)
        waits = "restart + 5 s"
        money = "reserve of what was in flight, less its cost"
    else:
        stage.leading().replaced(a.sidecar, stage.now)
        waits = "restart + 5 s"
        money = "all that it had been granted and had not settled"
    fault = f"sidecar crashes, {'with' if journal else 'without'} a journal"
    row = measured(stage, b, fault, waits, money, requests=IN_FLIGHT)
    return replace(row, seconds=None if row.seconds is None else row.seconds + RESTART)


def pod_gone() -> Row:
    stage, a, b = busy_stage()
    del stage.sidecars["a/1"]
    stage.leading().forget(a.sidecar.uid, stage.now)
    money = "all that it had been granted and had not settled"
    return measured(stage, b, "pod is deleted, its machine with it", "5 s", money, requests=IN_FLIGHT)


def cut_off(then: Stale) -> Row:
    stage, a, b = busy_stage(then)
    a.want({}, {BUDGET: Need(GRANTED - IN_FLIGHT * RESERVE, RESERVE, 1.0, 1.0)})
    stage.round()
    stage.silent.add("a/1")
    floor = 0 if then is Stale.REJECT else FLOOR
    waits = "TTL + longest request" + ("; its floor until it is back or its pod gone" if floor else "")
    money = "all that it had been granted and had not settled, until it is back"
    fault = f"sidecar is cut off, staleness {then.value}"
    return measured(stage, b, fault, waits, money, requests=IN_FLIGHT, floor=floor)


def failover(*, cut: bool) -> Row:
    stage, a, b = busy_stage()
    stage.book = None
    since = stage.now
    if cut:
        stage.silent.add("a/1")
    else:
        for number in range(IN_FLIGHT):
            a.settle(number + 1, NanoUsd(RESERVE // 5), stage.now)
        a.want({}, {})
    stage.pass_time(FAILOVER)
    stage.lead(2, ("a", "b"))
    took = stage.now - since
    fault = "leader crashes" + (", and a sidecar is cut off" if cut else "")
    waits = "failover + TTL + longest request" if cut else "failover + one report and grant"
    money = (
        "its grants until it is back, and at most 2 chunks"
        if cut
        else "at most 2 chunks, and what was returned in the last 30 s"
    )
    row = measured(stage, b, fault, waits, money, requests=IN_FLIGHT)
    return replace(row, seconds=None if row.seconds is None else row.seconds + took)


def operator_away() -> Row:
    stage, a, b = busy_stage()
    since = stage.now
    stage.book, book = None, stage.book
    for number in range(IN_FLIGHT):
        a.settle(number + 1, NanoUsd(RESERVE // 5), stage.now)
    a.want({}, {})
    stage.pass_time(600.0)
    back = stage.now
    stage.book = book
    waits = "outage, then one report and grant"
    row = measured(stage, b, "operator or API server is away for 600 s", waits, "nothing", requests=IN_FLIGHT)
    return replace(row, seconds=None if row.seconds is None else row.seconds + back - since)


def server_gone() -> Row:
    stage, a, b = busy_stage()
    for number in range(IN_FLIGHT):
        a.settle(number + 1, None, stage.now)
    a.want({}, {})
    stage.publish(0)
    stage.pass_time(1.0)
    stage.publish(SLOTS)
    waits = "one report and grant after it is back"
    money = "reserve of what was in flight, less its cost"
    return measured(
        stage, b, "model server is force-deleted and back after 1 s", waits, money, requests=IN_FLIGHT
    )


def wall_jumps(seconds: float) -> Row:
    stage, a, b = busy_stage()
    for number in range(IN_FLIGHT):
        a.settle(number + 1, NanoUsd(RESERVE // 5), stage.now)
    a.want({}, {})
    stage.wall += seconds
    back = seconds < 0
    fault = f"wall clock jumps {'back' if back else 'forward'} by {abs(seconds):.0f} s"
    money = "nothing: the period goes on" if back else "nothing of the new period; the old one is over"
    return measured(stage, b, fault, "one report and grant", money, requests=IN_FLIGHT if back else 0)


def rows() -> list[Row]:
    return [
        crash(journal=True),
        crash(journal=False),
        pod_gone(),
        cut_off(Stale.REJECT),
        cut_off(Stale.FLOOR),
        failover(cut=False),
        failover(cut=True),
        operator_away(),
        server_gone(),
        wall_jumps(-3600.0),
        wall_jumps(3600.0),
    ]


def table(found: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| after | slots are idle for | measured, s | of 8 idle then | budget lost | measured, cents |",
        "|---|---|---:|---:|---|---:|",
    ]
    for row in found:
        seconds = "longer" if row.seconds is None else f"{row.seconds:.1f}"
        lines.append(
            f"| {row.fault} | {row.waits} | {seconds} | {row.idle} | {row.money} | {row.cents:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    found = rows()
    print(table(found))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {
            row.fault: {"idle_s": row.seconds, "idle_slots": row.idle, "lost_cents": row.cents}
            for row in found
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
