"""Every fault of a model server, streamed and whole, over HTTP and gRPC: each call ends once, in time.

G7, G8, G10: none is lost, doubled, left hanging or falsely clean; counters return to zero; the bill is right.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Fallback, Timeouts
from modelfleet_core.values import NanoUsd
from modelfleet_sidecar import retry
from modelfleet_sidecar.failures import TABLE, Fault
from modelfleet_sidecar.upstream import Pool
from support.callers import WAYS, Caller, Told, Way, caller_of
from support.faulty import ANSWER, GONE, INPUT, OUTPUT, RETRY_AFTER, UNHEARD, Ill, Log, faulty_server
from support.sidecars import PRICING, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

MONEY = NanoUsd(10**12)
BILL = PRICING.cost(INPUT, OUTPUT)
ATTEMPTS = 2
SHORT = Timeouts(connect=0.5, first_token=0.3, between_tokens=0.2, min_tokens_per_second=100.0, total=0.6)
LONG = Timeouts(connect=5.0, first_token=10.0, between_tokens=10.0, min_tokens_per_second=0.0, total=20.0)
PATIENCE = 15.0
"""Seconds in which any call must have ended: far more than the policy's timeouts allow."""


class Booked(Enum):
    """What one failed attempt is charged."""

    NOTHING = "nothing"
    USED = "what it used"
    RESERVE = "its reserve"


@dataclass(frozen=True, slots=True)
class Fate:
    """What a caller gets where every server has the fault."""

    reason: str = ""
    """Empty: the answer is fine."""
    fault: Fault = Fault.UNAVAILABLE
    booked: Booked = Booked.USED
    late: bool = False
    """The caller has content by then: nothing is tried elsewhere."""


def refused(reason: str, fault: Fault = Fault.UNAVAILABLE) -> Fate:
    return Fate(reason, fault, Booked.NOTHING)


def broken(reason: str, fault: Fault = Fault.UNAVAILABLE) -> Fate:
    """Nobody knows what the server has produced, so that the reserve is charged."""
    return Fate(reason, fault, Booked.RESERVE)


def late(reason: str, fault: Fault = Fault.UNAVAILABLE) -> Fate:
    return Fate(reason, fault, Booked.RESERVE, late=True)


FINE = Fate()
GUESSED = Fate(booked=Booked.RESERVE)
WHOLE: Mapping[Ill, Fate] = {
    Ill.NOTHING: FINE,
    Ill.REFUSED: refused("UpstreamUnreachable"),
    Ill.RESET_BEFORE: broken("UpstreamCut"),
    Ill.RESET_AFTER: broken("UpstreamCut"),
    Ill.NO_NAME: refused("UpstreamUnreachable"),
    Ill.TLS: refused("UpstreamUnreachable"),
    Ill.BUSY: refused("UpstreamRateLimited", Fault.EXHAUSTED),
    Ill.BUSY_UNTIL: refused("UpstreamRateLimited", Fault.EXHAUSTED),
    Ill.BROKEN: refused("UpstreamError"),
    Ill.UNAVAILABLE: refused("UpstreamError"),
    Ill.STALL_FIRST: broken("UpstreamTimeout"),
    Ill.STALL_BETWEEN: broken("UpstreamTimeout"),
    Ill.TRICKLE: broken("UpstreamTimeout"),
    Ill.CUT_FIRST: broken("UpstreamCut"),
    Ill.CUT_BETWEEN: broken("UpstreamCut"),
    Ill.ERROR_FIRST: broken("UpstreamError"),
    Ill.ERROR_BETWEEN: broken("UpstreamError"),
    Ill.MALFORMED_FIRST: broken("UpstreamMalformed"),
    Ill.MALFORMED_BETWEEN: broken("UpstreamMalformed"),
    Ill.WRONG_TYPE: broken("UpstreamMalformed"),
    Ill.NO_BYTES: broken("UpstreamMalformed"),
    Ill.NO_CONTENT: Fate("UpstreamEmpty"),
    Ill.NO_USAGE: GUESSED,
    Ill.RUNNING_USAGE: FINE,
    Ill.REPEATED_USAGE: FINE,
}
STREAMED: Mapping[Ill, Fate] = {
    **WHOLE,
    Ill.NO_BYTES: broken("UpstreamCut"),
    Ill.STALL_BETWEEN: late("UpstreamTimeout"),
    Ill.TRICKLE: late("UpstreamTimeout"),
    Ill.CUT_BETWEEN: late("UpstreamCut"),
    Ill.ERROR_BETWEEN: late("UpstreamError"),
    Ill.MALFORMED_BETWEEN: late("UpstreamMalformed"),
}
IN_TIME = frozenset({Ill.STALL_FIRST, Ill.STALL_BETWEEN, Ill.TRICKLE})
"""Faults that only a policy's timeout ends."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A sidecar before a best model with a fault and another model, with or without it."""

    rig: Rig
    caller: Caller
    log: Log

    def spent(self) -> int:
        holding = self.rig.lease.holding
        states = [holding.account(account) for account in holding.accounts()]
        assert all(state is not None and state.reserved == 0 for state in states)
        return sum(state.spent for state in states if state is not None)


@asynccontextmanager
async def scene(ill: Ill, *, everywhere: bool) -> AsyncIterator[Scene]:
    log = Log()
    timeouts = SHORT if ill in IN_TIME else LONG
    policy = policy_of(fallback=Fallback(max_attempts=ATTEMPTS, timeouts=timeouts))
    best, other = Spec("best", 0.9), Spec("other", 0.5)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(faulty_server(ill, log, "best"))
        second = await stack.enter_async_context(
            faulty_server(ill if everywhere else Ill.NOTHING, log, "other")
        )
        rig = await stack.enter_async_context(running_sidecar(best, other, policy=policy, money=MONEY))
        rig.lease.grant({first: SlotGrant(best.key, 1), second: SlotGrant(other.key, 1)}, money=MONEY)
        yield Scene(rig, await stack.enter_async_context(caller_of(rig, log.heard.set)), log)


@pytest.fixture(autouse=True)
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one name that no name server knows, and short pauses."""
    monkeypatch.setattr(retry, "PAUSE", 0.05)
    resolve = socket.getaddrinfo

    def without(host: object, *args: object, **options: object) -> object:
        if host == GONE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", without)


@pytest.mark.parametrize("ill", list(Ill), ids=lambda ill: ill.value)
async def test_each_call_ends_once_in_time_and_at_its_price(ill: Ill) -> None:
    cells = list(itertools.product(WAYS, (False, True)))
    wrong: dict[str, Exception] = {}
    steps = asyncio.Barrier(len(cells))
    tasks = 0

    async def play(way: Way, everywhere: bool) -> None:
        nonlocal tasks
        async with scene(ill, everywhere=everywhere) as it:
            await steps.wait()
            tasks = at_work()
            try:
                async with asyncio.timeout(PATIENCE):
                    told = await it.caller.ask(way)
                check(it, told, ill, stream=way.stream, everywhere=everywhere)
                await quiet(it)
                bill(it, told, (STREAMED if way.stream else WHOLE)[ill])
            except Exception as error:  # noqa: BLE001 - the others of this row are shown too
                wrong[f"{way}, {'everywhere' if everywhere else 'at the best model'}"] = error
            await steps.wait()
            async with asyncio.timeout(PATIENCE):
                # Nothing tells when the last callback has run.
                while at_work() > tasks:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await steps.wait()

    await asyncio.gather(*(play(*cell) for cell in cells))
    assert not wrong, wrong


def check(it: Scene, told: Told, ill: Ill, *, stream: bool, everywhere: bool) -> None:
    """The call ended as the table says, and the servers saw no more than that."""
    fate = (STREAMED if stream else WHOLE)[ill]
    fails = bool(fate.reason) and (fate.late or everywhere)
    made = ATTEMPTS if fate.reason and not fate.late else 1
    said = TABLE[fate.fault]
    assert told.reason == (fate.reason if fails else "")
    assert told.status in ((said.http, said.grpc, said.openai_type) if fails else (200, "OK"))
    assert told.attempts == made
    if not fails:
        assert told.content == (ANSWER if ill is not Ill.NO_CONTENT or not everywhere else "")
    elif fate.late:
        assert told.content, "what came before the fault was relayed"
        assert ANSWER.startswith(told.content) or ill is Ill.TRICKLE
    else:
        assert told.content == ""
    if fails and ill is Ill.BUSY_UNTIL:
        assert told.retry_after == RETRY_AFTER
    unheard = made if everywhere and fails else 1
    assert len(it.log.seen) == made - (unheard if ill in UNHEARD else 0)
    if stream:  # nothing is asked again once content is out
        assert not any(seen.pieces for seen in it.log.seen[:-1])


async def quiet(it: Scene) -> None:
    """Return once nothing is left of the call: no slot, money, waiting request or busy connection."""
    await it.rig.settled()
    pool = it.rig.sidecar.router._pool
    async with asyncio.timeout(PATIENCE):
        await it.log.until(len(it.log.seen), ended=True)
        while pool.open_connections > idle(pool):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    assert it.rig.sidecar.router.waiting == 0


def at_work() -> int:
    """Return how many tasks there are, but for those of servers that wait for the next request."""
    return sum("faulty_server" not in repr(task.get_coro()) for task in asyncio.all_tasks())


def idle(pool: Pool) -> int:
    return sum(len(connections) for connections in pool._idle.values())


def bill(it: Scene, told: Told, fate: Fate) -> None:
    """Each attempt is charged once: what the server billed where that is known, else what was reserved."""
    explain = it.rig.sidecar.router.explain
    last = explain(told.decision_id)
    entries = [*(explain(attempt.decision_id) for attempt in last.decision.earlier), last]
    for entry in entries:
        sick = entry.decision.variant.model == "best" or told.reason
        booked = fate.booked if sick else Booked.USED
        due = {Booked.NOTHING: 0, Booked.USED: BILL, Booked.RESERVE: entry.decision.reserved}[booked]
        assert entry.cost == due, (entry.decision.variant, booked)
    assert it.spent() == sum(entry.cost or 0 for entry in entries)


def test_the_page_on_failures_says_what_the_matrix_shows() -> None:
    page = (Path(__file__).parents[2] / "docs/failures.md").read_text()
    table = "\n".join(row(ill) for ill in Ill if ill is not Ill.NOTHING)
    assert table in page, f"docs/failures.md should hold these rows:\n{table}"


def row(ill: Ill) -> str:
    """Return the line of the page on one fault."""
    fates = (WHOLE[ill], STREAMED[ill])
    charged = [fate.booked.value for fate in fates]
    bills = charged[0] if charged[0] == charged[1] else f"{charged[0]}; streamed: {charged[1]}"
    return f"| {ill.value} | {said(fates[0])} | {said(fates[1])} | {bills} |"


def said(fate: Fate) -> str:
    if not fate.reason:
        return "answered"
    if fate.late:
        return f"error event `{fate.reason}`"
    return f"elsewhere, else {TABLE[fate.fault].http} `{fate.reason}`"
