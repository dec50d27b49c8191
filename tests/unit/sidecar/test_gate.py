"""Who may call a sidecar that other pods reach; secrets are remembered by hash, for a while and so many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import modelfleet_sidecar.gate as gate_module
import pytest
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.gate import (
    ASK_AGAIN,
    FRESH,
    MAX_SECRET,
    OF_ONE,
    REFUSED,
    STALE,
    WAITING,
    Gate,
    Keys,
    ReviewError,
    Tokens,
    namespaces_of,
)

TOKEN = "head.body.signature"


class Reviews:
    """What the API server says, as the test has it."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self.accounts = dict(accounts)
        self.asked: list[str] = []
        self.away = False
        self.closed = False

    async def review(self, token: str) -> str | None:
        self.asked.append(token)
        await asyncio.sleep(0)
        if self.away:
            raise ReviewError("the API server can not be asked")
        return self.accounts.get(token)

    async def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def refused(gate: Gate, headers: Mapping[str, str]) -> Failure:
    with pytest.raises(Failure) as failed:
        await gate.admit(headers)
    return failed.value


async def test_a_token_is_reviewed_once_in_a_while_also_when_many_come_at_once() -> None:
    clock, reviews = Clock(), Reviews({TOKEN: "ml/app"})
    gate = Gate(None, Tokens(reviews, None, clock))
    await asyncio.gather(*(gate.admit(bearer(TOKEN)) for _ in range(50)))
    clock.now += FRESH - 1
    assert (await gate.admit(bearer(TOKEN)))["x-modelfleet-caller"] == "ml/app"
    assert reviews.asked == [TOKEN]
    reviews.accounts.clear()
    clock.now += 1
    assert (await refused(gate, bearer(TOKEN))).fault is Fault.UNAUTHENTICATED
    reviews.accounts[TOKEN] = "ml/app"
    assert (await refused(gate, bearer(TOKEN))).fault is Fault.UNAUTHENTICATED
    clock.now += REFUSED
    await gate.admit(bearer(TOKEN))
    assert len(reviews.asked) == 3
    await gate.close()
    assert reviews.closed


async def test_a_namespace_that_may_not_call_is_refused() -> None:
    reviews = Reviews({TOKEN: "other/app"})
    gate = Gate(None, Tokens(reviews, namespaces_of("", "ml"), Clock()))
    assert (await refused(gate, bearer(TOKEN))).fault is Fault.UNAUTHENTICATED


async def test_an_api_server_that_is_away_is_no_reason_to_let_anybody_in() -> None:
    clock, reviews = Clock(), Reviews({TOKEN: "ml/app"})
    reviews.away = True
    gate = Gate(None, Tokens(reviews, None, clock))
    failure = await refused(gate, bearer(TOKEN))
    assert (failure.fault, failure.reason, failure.retry_after) == (Fault.UNAVAILABLE, "NotReviewed", 2.0)
    reviews.away = False
    assert await gate.admit(bearer(TOKEN))


async def test_who_was_let_in_stays_so_for_a_while_when_nobody_can_review() -> None:
    clock, reviews = Clock(), Reviews({TOKEN: "ml/app"})
    gate = Gate(None, Tokens(reviews, None, clock))
    await gate.admit(bearer(TOKEN))
    reviews.away = True
    clock.now += FRESH
    assert all(await asyncio.gather(*(gate.admit(bearer(TOKEN)) for _ in range(5))))
    assert (await gate.admit(bearer(TOKEN)))["x-modelfleet-caller"] == "ml/app"
    assert len(reviews.asked) == 2
    clock.now += ASK_AGAIN
    reviews.away, reviews.accounts = False, {}
    assert (await refused(gate, bearer(TOKEN))).fault is Fault.UNAUTHENTICATED
    reviews.away = True
    clock.now += REFUSED
    assert (await refused(gate, bearer(TOKEN))).reason == "NotReviewed"


async def test_who_was_let_in_is_not_so_for_ever_when_nobody_can_review() -> None:
    clock, reviews = Clock(), Reviews({TOKEN: "ml/app"})
    gate = Gate(None, Tokens(reviews, None, clock))
    await gate.admit(bearer(TOKEN))
    reviews.away = True
    clock.now += FRESH + STALE
    assert (await refused(gate, bearer(TOKEN))).reason == "NotReviewed"


async def test_a_flood_of_wrong_tokens_makes_no_right_one_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "REMEMBERED", 10)
    reviews = Reviews({TOKEN: "ml/app"})
    gate = Gate(None, Tokens(reviews, None, Clock()))
    await gate.admit(bearer(TOKEN))
    for number in range(30):
        await refused(gate, bearer(f"a.b.{number}"))
    await gate.admit(bearer(TOKEN))
    assert reviews.asked.count(TOKEN) == 1


async def test_one_address_can_not_take_all_places_where_tokens_wait() -> None:
    reviews = Reviews({TOKEN: "ml/app"})
    gate = Gate(None, Tokens(reviews, None, Clock()))
    flood = [asyncio.ensure_future(gate.admit(bearer(f"a.b.{n}"), "10.0.0.6")) for n in range(WAITING)]
    await asyncio.sleep(0)
    assert (await gate.admit(bearer(TOKEN), "10.0.0.7"))["x-modelfleet-caller"] == "ml/app"
    ended = await asyncio.gather(*flood, return_exceptions=True)
    reasons = Counter(error.reason for error in ended if isinstance(error, Failure))
    assert reasons == {"NotAuthenticated": OF_ONE, "NotReviewed": WAITING - OF_ONE}
    assert (await refused(gate, bearer("a.b.last"))).fault is Fault.UNAUTHENTICATED


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic abc", "Bearer " + "x" * (MAX_SECRET + 1), TOKEN]
)
async def test_what_is_no_bearer_secret_is_refused_and_reviewed_by_nobody(value: str) -> None:
    reviews = Reviews({})
    gate = Gate(None, Tokens(reviews, None, Clock()))
    assert (await refused(gate, {"authorization": value})).fault is Fault.UNAUTHENTICATED
    assert reviews.asked == []


async def test_a_key_that_is_no_token_is_sent_to_nobody() -> None:
    reviews = Reviews({})
    gate = Gate(None, Tokens(reviews, None, Clock()))
    await refused(gate, bearer("an-api-key-of-somebody-else"))
    assert reviews.asked == []


async def test_keys_that_are_short_gone_or_no_files_open_nothing(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "short").write_text("123")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "team").write_text("0123456789abcdef\n")
    gate = Gate(Keys(tmp_path, clock), None)
    assert (await gate.admit(bearer("0123456789abcdef")))["x-modelfleet-caller"] == "team"
    await refused(gate, bearer("123"))
    (tmp_path / "team").unlink()
    clock.now += 1.0
    await refused(gate, bearer("0123456789abcdef"))


def test_namespaces_are_its_own_all_or_those_that_are_listed() -> None:
    assert namespaces_of("", "ml") == {"ml"}
    assert namespaces_of("*", "ml") is None
    assert namespaces_of("a, b,", "ml") == {"a", "b"}
