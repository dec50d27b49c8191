"""What a target does with model servers that fail and with odd requests, seen from outside.

In: a running target and the mock, told how to fail. Out: what callers got, by fault.
"""

from __future__ import annotations

import time

from benchmarks.peers.phases import Bench, Figures
from benchmarks.peers.plain import reply
from benchmarks.peers.prompts import chat_body
from benchmarks.peers.targets import Target, answers

ASKED = 24
RECOVERY_SECONDS = 20.0


def behaviours(bench: Bench, target: Target) -> Figures:
    """Return what callers got; after each fault the target gets time to trust its servers again."""
    found: Figures = {}
    for name, look in (
        ("one_of_four_resets", _one_resets),
        ("one_of_four_says_429", _one_limits),
        ("all_say_500", _all_fail),
        ("stream_cut", _stream_cut),
        ("malformed_json", _malformed),
    ):
        found[name] = look(bench, target)
        bench.mock.behave()
        until = time.monotonic() + RECOVERY_SECONDS
        while not answers(target.http, target.headers) and time.monotonic() < until:
            time.sleep(0.2)
    return found


def _one_resets(bench: Bench, target: Target) -> Figures:
    bench.mock.behave(port=3, faults=[{"fault": "reset", "of": 1.0}])
    return _answered(target)


def _one_limits(bench: Bench, target: Target) -> Figures:
    """One server asks for 4 s of peace: does it get them?"""
    bench.mock.behave(record=True)
    bench.mock.behave(port=3, record=True, faults=[{"fault": "429", "of": 1.0}], retry_after="4")
    bench.mock.events()
    found, until = _answered(target), time.monotonic() + 3.0
    while time.monotonic() < until:
        reply(target, chat_body("hello", model="auto", stream=False))
        time.sleep(0.05)
    asked = [event for event in bench.mock.events() if event["port"] == bench.mock.port(3)]
    return found | {"asked_again_within_4_s": max(0, sum(one["what"] == "request" for one in asked) - 1)}


def _all_fail(bench: Bench, target: Target) -> Figures:
    before = bench.mock.counts().get("request", 0)
    bench.mock.behave(faults=[{"fault": "500", "of": 1.0}])
    seen = reply(target, chat_body("hello", model="auto", stream=False))
    return {"status": seen.status, "attempts": bench.mock.counts()["request"] - before}


def _stream_cut(bench: Bench, target: Target) -> Figures:
    bench.mock.behave(faults=[{"fault": "cut", "of": 1.0}], between_ms=5)
    seen = reply(target, chat_body("hello", model="auto", stream=True))
    return {
        "status": seen.status,
        "end": seen.end,
        "says_error": b'"error"' in seen.body,
        "says_done": b"[DONE]" in seen.body,
        "told_caller": seen.end == "cut" or b'"error"' in seen.body,
    }


def _malformed(bench: Bench, target: Target) -> Figures:
    before = bench.mock.counts().get("request", 0)
    seen = reply(target, b'{"model":"auto","messages":[{"role":"user","content":"hi"')
    return {"status": seen.status, "reached_upstream": bench.mock.counts().get("request", 0) > before}


def _answered(target: Target) -> Figures:
    """Ask some times, half of them for streams, and count who got an answer in full."""
    good, statuses = 0, set()
    for number in range(ASKED):
        stream = number % 2 == 1
        seen = reply(target, chat_body(f"hello {number}", model="auto", stream=stream))
        statuses.add(seen.status)
        good += seen.status == 200 and seen.end == "whole" and (not stream or b"[DONE]" in seen.body)
    return {"asked": ASKED, "answered": good, "statuses": sorted(statuses)}
