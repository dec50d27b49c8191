"""Event streams are cut at events, whatever pieces they arrive in, and only whole events are relayed."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_sidecar.dialect import Usage, read_usage
from modelfleet_sidecar.sse import MAX_EVENT, BadStreamError, EventStream, error_text

USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
DONE = b"data: [DONE]\n\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def piece(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


STREAM = piece("one") + piece('"usage" and "error" in text') + event(choices=[], usage=USAGE) + DONE


@given(st.lists(st.integers(0, len(STREAM)), max_size=8), st.booleans())
def test_any_cuts_of_the_bytes_relay_the_same_events(cuts: list[int], keep: bool) -> None:
    stream = EventStream(keep_usage=keep)
    edges = [0, *sorted(cuts), len(STREAM)]
    relayed = b"".join(stream.feed(STREAM[a:b]) for a, b in pairwise(edges))
    expected = STREAM if keep else STREAM.replace(event(choices=[], usage=USAGE), b"")
    assert relayed == expected
    assert stream.done
    assert stream.usage == Usage(3, 5)


def test_every_relay_is_whole_events() -> None:
    stream = EventStream(keep_usage=False)
    first = piece("one")
    assert stream.feed(first[:10]) == b""
    assert stream.feed(first[10:] + b"data: {") == first


def test_carriage_returns_are_relayed_as_they_came() -> None:
    text = STREAM.replace(b"\n", b"\r\n")
    stream = EventStream(keep_usage=True)
    assert stream.feed(text[:30]) + stream.feed(text[30:]) == text
    assert stream.done
    assert stream.usage == Usage(3, 5)


@pytest.mark.parametrize("behind", [b"", piece("two")], ids=["alone", "before another"])
def test_json_that_breaks_off_after_content_is_not_relayed_as_if_it_were_fine(behind: bytes) -> None:
    stream = EventStream(keep_usage=False)
    stream.feed(piece("one"))
    with pytest.raises(BadStreamError):
        stream.feed(piece("two")[:-10] + b"\n\n" + behind)


def test_a_proxy_that_ends_its_lines_another_way_than_the_server_changes_nothing() -> None:
    text = STREAM.replace(b"\n", b"\r\n")
    mixed = b": wait\n\n" + text.replace(DONE.replace(b"\n", b"\r\n"), b": wait\n\n" + DONE)
    stream = EventStream(keep_usage=True)
    assert stream.feed(mixed) == mixed
    assert stream.done
    assert stream.usage == Usage(3, 5)


def test_an_error_event_ends_the_stream_and_is_not_relayed() -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(piece("one") + event(error={"message": "overloaded"}) + DONE) == piece("one")
    assert error_text(stream.error) == "overloaded"
    assert not stream.done


def test_nothing_after_the_end_is_relayed() -> None:
    stream = EventStream(keep_usage=False)
    assert stream.feed(DONE + piece("late")) == DONE


def test_usage_that_is_null_or_running_keeps_the_chunk() -> None:
    stream = EventStream(keep_usage=False)
    chunk = event(choices=[{"index": 0, "delta": {}}], usage=None)
    last = event(choices=[{"index": 0, "delta": {}}], usage=USAGE)
    assert stream.feed(chunk + last) == chunk + last
    assert stream.usage == Usage(3, 5)


def test_an_event_without_end_is_refused() -> None:
    stream = EventStream(keep_usage=False)
    with pytest.raises(BadStreamError, match="over"):
        stream.feed(b"data: " + b"x" * (MAX_EVENT + 1))


def test_a_marked_event_without_json_is_refused() -> None:
    with pytest.raises(BadStreamError, match="no JSON"):
        EventStream(keep_usage=False).feed(b'data: {"usage": \n\n')


@pytest.mark.parametrize(
    "usage",
    [
        None,
        5,
        {},
        {"prompt_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": None},
        *({"prompt_tokens": bad, "completion_tokens": 5} for bad in (-1, "3", True, 3.0, 2**31)),
        *({"prompt_tokens": 3, "completion_tokens": bad} for bad in (-1, "3", True, 3.0, 2**31)),
    ],
)
def test_usage_that_makes_no_sense_counts_as_none(usage: object) -> None:
    assert read_usage({"usage": usage}) is None


@pytest.mark.parametrize(("total", "output"), [(8, 5), (20, 17), (1, 5), (None, 5), ("20", 5), (2**40, 5)])
def test_tokens_that_only_the_total_shows_count_as_output(total: object, output: int) -> None:
    assert read_usage({"usage": {**USAGE, "total_tokens": total}}) == Usage(3, output)


def test_a_comment_is_relayed_whatever_it_says() -> None:
    comment = b': "error" while waiting\n\n'
    stream = EventStream(keep_usage=False)
    assert stream.feed(comment + DONE) == comment + DONE


def test_an_error_is_quoted_at_bounded_length() -> None:
    assert error_text({"error": {"message": "m" * 9999}}) == "m" * 500
    assert error_text({"error": "plain"}) == "plain"
    assert error_text({"detail": 5}) == "no reason given"
    assert error_text([1]) == "no reason given"


def test_a_long_event_in_small_pieces_costs_no_more_than_its_length() -> None:
    long = piece("x" * (MAX_EVENT - 100))

    def looked_at(size: int) -> int:
        """Return the bytes that are handled, as pieces are joined with what was held before."""
        stream, handled = EventStream(keep_usage=False), 0
        joined = stream._joined

        def counting(data: bytes) -> bytes:
            nonlocal handled
            data = joined(data)
            handled += len(data)
            return data

        stream._joined = counting  # type: ignore[method-assign]
        relayed = b"".join(stream.feed(long[at : at + size]) for at in range(0, len(long), size))
        assert relayed == long
        return handled

    assert looked_at(1000) < 3 * len(long)
