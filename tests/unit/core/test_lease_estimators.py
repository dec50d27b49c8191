"""Sidecars get estimators with their grants, and no lease ever waits for one."""

from __future__ import annotations

from modelfleet_core.leasing.estimators import BURST, BYTES_PER_SECOND, NO_DOCUMENT, Estimators
from modelfleet_core.leasing.grants import LeaseBook
from modelfleet_core.leasing.messages import Document, SidecarId
from support.lease_values import ONE, POD_A, POLICY, TWO, granted, hear, lease_book, report

BASE, BETTER = Document("b1", b"base"), Document("b2", b"better")
LEARNED = Document("l1", b"learned")
HUGE = Document("huge", bytes(BURST // 2 + 1))


def _book(*sidecars: SidecarId) -> LeaseBook:
    book = lease_book({POD_A: 4})
    for sidecar in sidecars:
        hear(book, report(sidecar, 1), 0.0)
    return book


def _say(book: LeaseBook, base: Document | None = None, learned: Document | None = None) -> None:
    book.set_estimators(Estimators({POLICY: base} if base else {}, {POLICY: learned} if learned else {}))


def test_a_sidecar_is_sent_an_estimator_once() -> None:
    book = _book(ONE)
    _say(book, BASE, LEARNED)
    first = granted(book, 0.0)[ONE]
    assert (first.estimator, first.learned) == (BASE, LEARNED)
    hear(book, report(ONE, 5, applied=1, estimators=("b1", "l1")), 5.0)
    second = granted(book, 5.0)[ONE]
    assert (second.estimator, second.learned) == (None, None)


def test_what_changes_is_sent_at_once_and_alone() -> None:
    book = _book(ONE)
    _say(book, BASE, LEARNED)
    granted(book, 0.0)
    assert granted(book, 0.1) == {}
    _say(book, BETTER, LEARNED)
    again = granted(book, 0.2)[ONE]
    assert (again.estimator, again.learned) == (BETTER, None)


def test_nothing_is_said_of_estimators_that_are_not_known_yet() -> None:
    book = _book(ONE)
    hear(book, report(ONE, 2, estimators=("b1", "l1")), 0.0)
    first = granted(book, 0.0)[ONE]
    assert (first.estimator, first.learned) == (None, None)


def test_a_sidecar_hears_that_there_is_no_estimator_any_more() -> None:
    book = _book(ONE, TWO)
    hear(book, report(ONE, 2, estimators=("b1", "")), 0.0)
    _say(book, NO_DOCUMENT, NO_DOCUMENT)
    grants = granted(book, 0.0)
    assert (grants[ONE].estimator, grants[ONE].learned) == (NO_DOCUMENT, None)
    assert (grants[TWO].estimator, grants[TWO].learned) == (None, None)


def test_a_new_stream_is_sent_again_what_may_be_lost() -> None:
    book = _book(ONE)
    _say(book, BASE)
    granted(book, 0.0)
    book.connect(ONE)
    assert granted(book, 0.1)[ONE].estimator == BASE


def test_estimators_that_are_too_much_at_once_come_later_and_leases_do_not_wait() -> None:
    book = _book(ONE, TWO)
    _say(book, HUGE, LEARNED)
    first = granted(book, 0.0)
    assert [first[sidecar].estimator for sidecar in (ONE, TWO)] == [HUGE, None]
    assert first[TWO].learned is None, "it corrects a base that did not come"
    later = 4.0 + len(HUGE.manifest) / BYTES_PER_SECOND
    hear(book, report(TWO, 9, applied=1), later)
    second = granted(book, later)[TWO]
    assert (second.estimator, second.learned) == (HUGE, LEARNED)


def test_estimators_of_another_policy_are_not_sent() -> None:
    book = _book(ONE)
    granted(book, 0.0)
    other = type(POLICY)("ml", "other")
    book.set_estimators(Estimators({other: BASE}, {}))
    assert granted(book, 0.1) == {}
