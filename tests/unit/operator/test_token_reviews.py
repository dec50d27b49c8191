"""Tokens are reviewed once, so many at a time, remembered for a while, and never written down."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace

import grpc
import pytest
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_operator import tokens
from modelfleet_operator.cluster import Forbidden, TokenReview, Unavailable
from modelfleet_operator.identity import AdmissionError, Caller, bearer_token, caller_of, expiry
from modelfleet_operator.tokens import AT_ONCE, AWAY, FRESH, KEPT, REFUSED, TokenAdmission
from support.access import AUDIENCE, Reviews, made_token, review

ONE = Caller("ml", "one", "uid-one")
START = 1_000_000.0


class Desk:
    """An admission whose clocks are the test's."""

    def __init__(self, reviews: Reviews) -> None:
        self.reviews = reviews
        self.now = 0.0
        self.outcomes: list[str] = []
        self.admission = TokenAdmission(
            reviews,
            AUDIENCE,
            clock=lambda: self.now,
            wall_clock=lambda: START + self.now,
            count=self.outcomes.append,
        )

    async def admit(self, token: str) -> Caller:
        return await self.admission.admit((("user-agent", "grpc"), ("authorization", f"Bearer {token}")))

    async def refusal(self, token: str) -> AdmissionError:
        with pytest.raises(AdmissionError) as refused:
            await self.admit(token)
        return refused.value


async def test_a_token_is_reviewed_once_for_a_while_and_then_again() -> None:
    token = made_token("one")
    desk = Desk(Reviews(one=token))
    assert await desk.admit(token) == await desk.admit(token) == ONE
    assert len(desk.reviews.asked) == 1
    desk.now = FRESH
    assert await desk.admit(token) == ONE
    assert len(desk.reviews.asked) == 2
    assert desk.outcomes == ["accepted", "accepted"]


async def test_a_token_counts_no_longer_than_it_says() -> None:
    token = made_token("one", ends=int(START) + 20)
    desk = Desk(Reviews(one=token))
    assert await desk.admit(token) == ONE
    desk.now = 20.0
    desk.reviews.answers[token] = TokenReview(authenticated=False, error="token has expired")
    assert "has expired" in (await desk.refusal(token)).message
    desk.reviews.answers[token] = Unavailable("no answer")
    desk.now = 40.0
    assert (await desk.refusal(token)).code is grpc.StatusCode.UNAVAILABLE


async def test_a_refused_token_is_asked_about_seldom_but_again() -> None:
    token = made_token("one")
    desk = Desk(Reviews())
    for _ in range(3):
        assert (await desk.refusal(token)).code is grpc.StatusCode.UNAUTHENTICATED
    assert desk.outcomes == ["refused"]
    desk.now = REFUSED
    desk.reviews.answers[token] = review("one")
    assert await desk.admit(token) == ONE


async def test_a_known_token_outlives_an_outage_of_the_api_server_and_a_new_one_waits() -> None:
    known, new = made_token("one"), made_token("two")
    desk = Desk(Reviews(one=known))
    await desk.admit(known)
    desk.reviews.answers = {known: Unavailable("the API server is away"), new: Unavailable("it is away")}
    desk.now = KEPT - 1.0
    assert await desk.admit(known) == ONE
    refused = await desk.refusal(new)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert "try again" in refused.message
    desk.now = KEPT
    assert (await desk.refusal(known)).code is grpc.StatusCode.UNAVAILABLE
    desk.now += AWAY
    desk.reviews.answers[new] = review("two")
    assert (await desk.admit(new)).pod == "two"  # an outage is not remembered


async def test_while_the_api_server_hangs_only_few_callers_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {f"pod-{number}": made_token(f"pod-{number}") for number in range(500)}
    desk = Desk(Reviews(**known))
    for token in known.values():
        await desk.admit(token)
    monkeypatch.setattr(tokens, "REVIEW_SECONDS", 0.01)
    desk.now = FRESH
    desk.reviews.open.clear()
    desk.reviews.asked.clear()
    callers = await asyncio.gather(*(desk.admit(token) for token in known.values()))
    assert {caller.pod for caller in callers} == set(known)
    assert len(desk.reviews.asked) <= AT_ONCE


async def test_a_missing_permission_is_named() -> None:
    token = made_token("one")
    desk = Desk(Reviews())
    desk.reviews.answers[token] = Forbidden("User x cannot create resource tokenreviews")
    refused = await desk.refusal(token)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert "create tokenreviews.authentication.k8s.io" in refused.message


async def test_an_answer_that_does_not_come_is_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REVIEW_SECONDS", 0.01)
    desk = Desk(Reviews())
    desk.reviews.open.clear()
    refused = await desk.refusal(made_token("one"))
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert "no answer within" in refused.message


async def test_a_herd_is_reviewed_so_many_at_a_time_and_each_token_once() -> None:
    herd = {f"pod-{number}": made_token(f"pod-{number}") for number in range(2_000)}
    desk = Desk(Reviews(**herd))
    callers = await asyncio.gather(*(desk.admit(token) for token in herd.values() for _ in range(2)))
    assert {caller.pod for caller in callers} == set(herd)
    assert len(desk.reviews.asked) == len(herd)
    assert 1 < desk.reviews.most_at_once <= AT_ONCE


async def test_a_review_goes_on_when_its_caller_has_gone() -> None:
    token = made_token("one")
    desk = Desk(Reviews(one=token))
    desk.reviews.open.clear()
    impatient = asyncio.create_task(desk.admit(token))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    desk.reviews.open.set()
    assert await desk.admit(token) == ONE
    assert len(desk.reviews.asked) == 1


async def test_more_callers_than_can_wait_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WAITING", 3)
    desk = Desk(Reviews())
    desk.reviews.open.clear()
    waiting = [asyncio.create_task(desk.admit(made_token("one"))) for _ in range(3)]
    await asyncio.sleep(0)
    assert (await desk.refusal(made_token("one"))).code is grpc.StatusCode.UNAVAILABLE
    await desk.admission.close()
    done, pending = await asyncio.wait(waiting, timeout=5)
    assert not pending
    assert all(task.cancelled() for task in done)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED", 10)
    good = {f"pod-{number}": made_token(f"pod-{number}") for number in range(30)}
    desk = Desk(Reviews(**good))
    for token in good.values():
        await desk.admit(token)
        await desk.refusal(made_token("unknown"))
    assert len(desk.admission._accepted) == len(desk.admission._refused) == 10
    await desk.admit(good["pod-29"])
    assert len(desk.reviews.asked) == 60  # the newest is remembered


async def test_a_remembered_refusal_keeps_no_frame_in_which_its_token_is() -> None:
    desk = Desk(Reviews())
    await desk.refusal(made_token("one"))
    ((_, refusal),) = desk.admission._refused.values()
    assert refusal.__traceback__ is refusal.__context__ is refusal.__cause__ is None


async def test_no_token_is_logged_told_or_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, bad, odd = made_token("one"), made_token("two"), made_token("three")
    desk = Desk(Reviews(one=good))
    desk.reviews.answers[odd] = Unavailable("away")
    told = [str(await desk.admit(good)), repr(await desk.refusal(bad)), repr(await desk.refusal(odd))]
    desk.reviews.asked.clear()
    desk.reviews.answers.clear()
    kept = repr([vars(desk.admission), desk.admission._accepted, desk.admission._refused])
    gc.collect()
    for token in (good, bad, odd):
        for part in (token, token.split(".")[2]):
            assert part not in caplog.text
            assert part not in "".join(told)
            assert part not in kept


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "NoToken"),
        ([("authorization", "Basic abc")], "BadToken"),
        ([("authorization", "Bearer")], "BadToken"),
        ([("authorization", "Bearer ")], "BadToken"),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")], "BadToken"),
        ([("authorization", "Bearer " + "a" * 16_385)], "BadToken"),
        ([("authorization", "Bearer a\nb")], "BadToken"),
        ([("authorization", "Bearer ä")], "BadToken"),
    ],
)
def test_a_call_without_one_token_is_refused_and_told_how(
    metadata: list[tuple[str, str | bytes]], reason: str
) -> None:
    with pytest.raises(AdmissionError) as refused:
        bearer_token(metadata)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


def test_the_scheme_is_read_as_http_reads_it() -> None:
    assert bearer_token([("authorization", "bearer a.b.c")]) == "a.b.c"


POD, UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"authenticated": False}, "BadToken"),
        ({"audiences": ()}, "OtherAudience"),
        ({"audiences": ("other", "modelfleets")}, "OtherAudience"),
        ({"user": "system:admin"}, "NoServiceAccount"),
        ({"user": "system:serviceaccount:ml"}, "NoServiceAccount"),
        ({"user": "ml:default"}, "NoServiceAccount"),
        ({"user": "system:serviceaccount::default"}, "NoServiceAccount"),
        ({"extra": {}}, "NotBound"),
        ({"extra": {POD: ("one",)}}, "NotBound"),
        ({"extra": {UID: ("uid-one",)}}, "NotBound"),
        ({"extra": {POD: ("",), UID: ("uid-one",)}}, "NotBound"),
        ({"extra": {POD: ("one", "two"), UID: ("uid-one",)}}, "NotBound"),
    ],
)
def test_a_review_that_names_no_pod_for_this_audience_is_a_refusal(
    change: dict[str, object], reason: str
) -> None:
    assert caller_of(review("one"), AUDIENCE) == ONE
    with pytest.raises(AdmissionError) as refused:
        caller_of(replace(review("one"), **change), AUDIENCE)  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


@pytest.mark.parametrize(
    "other",
    [
        SidecarId("elsewhere", "one", "uid-one", "1"),
        SidecarId("ml", "two", "uid-one", "1"),
        SidecarId("ml", "one", "uid-two", "1"),
    ],
)
def test_a_pod_may_speak_for_itself_only(other: SidecarId) -> None:
    ONE.check(SidecarId("ml", "one", "uid-one", "any start"))
    with pytest.raises(AdmissionError, match="its own pod") as refused:
        ONE.check(other)
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "a.bm90IGpzb24.c", "a.W10.c", "a.eyJleHAiOiJzb29uIn0.c"])
def test_a_token_that_does_not_say_when_it_ends_has_no_end(token: str) -> None:
    assert expiry(token) is None


def test_the_end_of_a_token_is_read_from_it() -> None:
    assert expiry(made_token("one", ends=1_800_000_000)) == 1_800_000_000.0
