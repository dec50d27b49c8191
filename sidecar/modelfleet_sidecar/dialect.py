"""Stage forward, what kinds of answers look like: where they are asked for, what is content, usage, the end.

In: the JSON of a model server's answer or of one event of its stream. Out: what `exchange` and `sse` need
to know of it. One `Dialect` for each kind of call; `Call.dialect` says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_TOKENS = 2**31 - 1
MAX_ID = 200
BROKEN_OFF = frozenset({"error", "abort"})
"""Reasons to finish that are none: the server gave the answer up."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `estimated`: the server did not say, so these are the sidecar's guess."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False
    cached_tokens: int = 0
    """Of the input, found in the server's prompt cache."""


class Dialect:
    """Chat completions, and what the other kinds share with them."""

    name = "chat"
    path = "/v1/chat/completions"
    """At the model server, after its base URL."""
    marks: tuple[bytes, ...] = (b'"usage"', b'"error"', b'"length"', b'"abort"')
    """An event after the first content that ends in an object without any of these is relayed unread."""
    says_done = True
    """Whether streams end in `[DONE]`."""

    def said(self, chunk: Mapping[object, object]) -> int:
        """Return the length of an event's content; a role says nothing, what is no text counts as 1."""
        return sum(_length(delta) for delta in _in_choices(chunk, "delta"))

    def finishes(self, chunk: Mapping[object, object]) -> bool:
        """Return whether an answer, or an event, says that the model was through, even if it said nothing."""
        return any(reason not in BROKEN_OFF for reason in _reasons(chunk))

    def ends(self, _chunk: Mapping[object, object]) -> bool:
        """Return whether an event is the stream's last one, besides `[DONE]`."""
        return False

    def cut(self, chunk: Mapping[object, object]) -> bool:
        """Return whether a choice ended at its token limit."""
        return "length" in _reasons(chunk)

    def failure(self, chunk: Mapping[object, object]) -> object:
        """Return the error that an answer, or an event, says instead of content; None: none."""
        if error := chunk.get("error"):
            return error
        if chunk.get("object") == "error" or chunk.get("type") == "error":
            return chunk
        if any(reason in BROKEN_OFF for reason in _reasons(chunk)):
            return {"message": "it finished with an error"}
        return None

    def usage(self, chunk: Mapping[object, object]) -> Usage | None:
        """Return the usage that an answer, or an event, tells; None: none that makes sense."""
        return read_usage(chunk)

    def only_usage(self, chunk: Mapping[object, object]) -> bool:
        """Return whether an event carries nothing but usage."""
        return not chunk.get("choices") and chunk.get("usage") is not None

    def answers(self, answer: Mapping[object, object]) -> bool:
        """Return whether a whole answer is one: with content, or with a reason why it has none."""
        return self.finishes(answer) or any(_length(message) for message in _in_choices(answer, "message"))

    def text(self, answer: Mapping[object, object]) -> str:
        """Return what a whole answer says, all choices one after the other, calls of tools as JSON."""
        return "\n".join(
            value if isinstance(value, str) else json.dumps(value)
            for message in _in_choices(answer, "message")
            for name, value in message.items()
            if value and name != "role"
        )

    def id(self, answer: Mapping[object, object]) -> str:
        """Return how the server names a whole answer, at most 200 characters; empty: it does not."""
        named = answer.get("id")
        return named if isinstance(named, str) and len(named) <= MAX_ID else ""


class _Completions(Dialect):
    name = "completions"
    path = "/v1/completions"

    def said(self, chunk: Mapping[object, object]) -> int:
        return sum(_weight(choice.get("text")) for choice in _choices(chunk))

    def answers(self, answer: Mapping[object, object]) -> bool:
        return self.finishes(answer) or self.said(answer) > 0

    def text(self, answer: Mapping[object, object]) -> str:
        return "\n".join(text for choice in _choices(answer) if isinstance(text := choice.get("text"), str))


class _Embeddings(Dialect):
    name = "embeddings"
    path = "/v1/embeddings"

    def answers(self, answer: Mapping[object, object]) -> bool:
        return bool(answer.get("data"))

    def text(self, _answer: Mapping[object, object]) -> str:
        return ""


class _Responses(Dialect):
    """Typed events; the last one is of the whole response, with its usage."""

    name = "responses"
    path = "/v1/responses"
    marks = (b'"response.completed"', b'"response.failed"', b'"response.incomplete"', b'"error"')
    says_done = False

    def said(self, chunk: Mapping[object, object]) -> int:
        return _weight(chunk.get("delta"))

    def finishes(self, chunk: Mapping[object, object]) -> bool:
        return self._whole(chunk).get("status") in ("completed", "incomplete")

    def ends(self, chunk: Mapping[object, object]) -> bool:
        return chunk.get("type") in ("response.completed", "response.incomplete")

    def cut(self, chunk: Mapping[object, object]) -> bool:
        why = self._whole(chunk).get("incomplete_details")
        return isinstance(why, dict) and why.get("reason") == "max_output_tokens"

    def failure(self, chunk: Mapping[object, object]) -> object:
        if chunk.get("type") == "error":
            return chunk.get("error") or chunk
        whole = self._whole(chunk)
        if whole.get("status") in ("failed", "cancelled") or chunk.get("type") == "response.failed":
            return whole.get("error") or {"message": "the response failed"}
        return chunk.get("error")

    def usage(self, chunk: Mapping[object, object]) -> Usage | None:
        return read_usage(self._whole(chunk))

    def only_usage(self, _chunk: Mapping[object, object]) -> bool:
        return False

    def answers(self, answer: Mapping[object, object]) -> bool:
        return bool(answer.get("output")) or self.finishes(answer)

    def text(self, answer: Mapping[object, object]) -> str:
        return json.dumps(answer.get("output"))

    @staticmethod
    def _whole(chunk: Mapping[object, object]) -> Mapping[object, object]:
        inner = chunk.get("response")
        return inner if isinstance(inner, dict) else chunk


CHAT = Dialect()
COMPLETIONS: Dialect = _Completions()
EMBEDDINGS: Dialect = _Embeddings()
RESPONSES: Dialect = _Responses()


def read_usage(answer: object) -> Usage | None:
    """Return the usage in an answer's or chunk's JSON; None: there is none that makes sense.

    Some servers leave tokens of reasoning out of `completion_tokens` and bill them: the total shows them.
    The responses API says input and output; embeddings have no output.
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    names = (
        ("prompt_tokens", "completion_tokens")
        if "prompt_tokens" in usage
        else ("input_tokens", "output_tokens")
    )
    said, written = _tokens(usage.get(names[0])), _tokens(usage.get(names[1]))
    total = _tokens(usage.get("total_tokens"))
    if written is None and names[1] not in usage and total is not None:
        written = 0
    if said is None or written is None:
        return None
    details = usage.get(f"{names[0]}_details")
    cached = _tokens(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(
        said,
        written if total is None else max(written, total - said),
        cached_tokens=min(said, cached or 0),
    )


def _tokens(count: object) -> int | None:
    if isinstance(count, bool) or not isinstance(count, int):
        return None
    return count if 0 <= count <= MAX_TOKENS else None


def _choices(chunk: Mapping[object, object]) -> Iterable[Mapping[str, object]]:
    choices = chunk.get("choices")
    return (one for one in choices if isinstance(one, dict)) if isinstance(choices, list) else ()


def _in_choices(chunk: Mapping[object, object], name: str) -> Iterable[Mapping[str, object]]:
    return (one for choice in _choices(chunk) if isinstance(one := choice.get(name), dict))


def _weight(value: object) -> int:
    return len(value) if isinstance(value, str) else int(bool(value))


def _length(delta: Mapping[str, object]) -> int:
    return sum(_weight(delta[key]) for key in delta if key != "role")


def _reasons(chunk: Mapping[object, object]) -> list[str]:
    said = [choice.get("finish_reason") for choice in _choices(chunk)]
    return [reason for reason in said if isinstance(reason, str)]
