"""Whatever a model streams, in whatever pieces: its events are relayed byte for byte, but for its usage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelfleet_sidecar.sse import MAX_EVENT, BadStreamError, EventStream

pytestmark = pytest.mark.property

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(['"usage"', '{"error": 1}', "[DONE]", "data: x", '"length"', "\ud83d", "\n\n", "}\n\n"]),
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as sent. `relayed`: callers get it; `output`: of its usage, None: it tells none."""

    wire: bytes
    relayed: bool = True
    output: int | None = None
    error: bool = False
    done: bool = False


def data(value: object, *, lines: bool = False) -> bytes:
    """Return the `data:` lines of a value, over several lines if wanted."""
    text = json.dumps(value, indent=1 if lines else None)
    return b"".join(b"data: " + line.encode() + b"\n" for line in text.split("\n"))


@st.composite
def contents(draw: st.DrawFn) -> Event:
    chunk: dict[str, object] = {"choices": [{"index": 0, "delta": {"content": draw(TEXTS)}}]}
    output = draw(st.none() | st.integers(0, 10**6))
    if output is not None:
        chunk["usage"] = {"prompt_tokens": 3, "completion_tokens": output}
    fields = draw(st.sampled_from([b"", b"event: message\n", b"id: 7\n", b"retry: 10\n", b": note\n"]))
    return Event(fields + data(chunk, lines=draw(st.booleans())) + b"\n", output=output)


@st.composite
def usages(draw: st.DrawFn) -> Event:
    output = draw(st.integers(0, 10**6))
    chunk = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": output}}
    return Event(data(chunk) + b"\n", relayed=False, output=output)


COMMENTS = st.sampled_from([b": ping\n\n", b":\n\n", b": \xff\xfe\n\n", b"event: ping\n\n", b"id: 1\n\n"])
ERRORS = TEXTS.map(lambda text: Event(data({"error": {"message": text}}) + b"\n", relayed=False, error=True))
ENDS = st.sampled_from([b"data: [DONE]\n\n", b"data:[DONE]\n\n"]).map(lambda end: Event(end, done=True))
EVENTS = st.one_of(contents(), contents(), contents(), usages(), COMMENTS.map(Event), ERRORS, ENDS)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Event], list[bytes]]:
    """Draw events, some with carriage returns, and pieces in which they come."""
    events = []
    for event in draw(st.lists(EVENTS, max_size=12)):
        ending = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
        wire = event.wire.replace(b"\n", ending)
        events.append(Event(wire, event.relayed, event.output, event.error, event.done))
    whole = b"".join(event.wire for event in events)
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=10))
    return events, [whole[a:b] for a, b in pairwise([0, *sorted(cuts), len(whole)])]


@given(streams(), st.booleans())
@settings(max_examples=200)
def test_events_are_relayed_byte_for_byte_but_for_usage(
    sent: tuple[list[Event], list[bytes]], keep: bool
) -> None:
    events, pieces = sent
    last = next((number for number, event in enumerate(events) if event.error or event.done), len(events))
    read = events[: last + 1]
    stream = EventStream(keep_usage=keep)
    relayed = b"".join(stream.feed(piece) for piece in pieces)
    wanted = [event for event in read if event.relayed or (keep and event.output is not None)]
    assert relayed == b"".join(event.wire for event in wanted)
    assert stream.done == any(event.done for event in read)
    assert (stream.error is not None) == any(event.error for event in read)
    told = [event.output for event in read if event.output is not None]
    assert (stream.usage.output_tokens if stream.usage is not None else None) == (told[-1] if told else None)


NOISE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            *(
                b"data: ",
                b"data:",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
                b"\r\n\r\n",
                b"\xef\xbb\xbf",
                b"{",
                b"}",
                b"[",
            ),
            *(
                b'"usage"',
                b'"error"',
                b"[DONE]",
                b'{"choices": [{"delta": {"content": "a"}}]}',
                b"null",
                b"1e999",
            ),
            *(
                b"[" * 200,
                b'{"usage": {"prompt_tokens": -1}}',
                b'{"error": {}}',
                b'{"choices": 5, "usage": []}',
            ),
            *(
                b'{"choices": [{"delta": {"content": 5}, "finish_reason": []}]}',
                b'{"choices": [[], null, {}]}',
            ),
        ]
    ),
)


def outcome(pieces: list[bytes]) -> tuple[bytes, object]:
    """Return what is relayed of a stream, and how it stands then."""
    stream = EventStream(keep_usage=False)
    relayed = b""
    try:
        for piece in pieces:
            relayed += stream.feed(piece)
            assert len(stream._partial) <= MAX_EVENT
    except BadStreamError:
        return relayed, "bad"
    return relayed, (stream.done, repr(stream.error), stream.usage, stream.spoke, stream.cut)


def _lines(relayed: bytes) -> list[bytes]:
    """Return what is not blank: a blank line more between two events says nothing."""
    return [line for line in relayed.splitlines() if line]


@given(st.lists(NOISE, max_size=30))
@settings(max_examples=300)
@example([b"data: ", b"[" * 100_000, b"\n\n"])
@example([b'data: {"error": ', b"9" * 100_000, b"}\n\n"])
def test_any_bytes_are_relayed_or_refused_and_how_they_are_cut_changes_nothing(noise: list[bytes]) -> None:
    whole = b"".join(noise)
    relayed, stands = outcome([whole])
    for pieces in (noise, [whole[at : at + 1] for at in range(min(len(whole), 3000))] + [whole[3000:]]):
        in_pieces, stood = outcome(pieces)
        assert stood == stands
        if stands == "bad":  # what came before the bad event may have been out already
            assert _lines(in_pieces)[: len(_lines(relayed))] == _lines(relayed)
        else:
            assert _lines(in_pieces) == _lines(relayed)


@given(st.integers(1, 5), st.sampled_from([b"x", b"data: y\n", b": wait\r\n"]))
@settings(max_examples=10)
def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(pieces: int, text: bytes) -> None:
    piece = text * (MAX_EVENT // len(text) // pieces)
    assert outcome([piece] * (pieces + 2)) == (b"", "bad")
