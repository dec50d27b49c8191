"""The OpenAI-compatible bodies of a simulated server.

In: request bodies. Out: a typed request, and the bodies and stream events of answers and errors.
Next: `serving`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_lab.model_server.answers import input_tokens

DONE = b"data: [DONE]\n\n"


class BadRequestError(ValueError):
    """A body that is no request of the API; becomes status 400."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One request to generate."""

    model: str
    message: str
    """The last user message, or the prompt."""
    input_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    chat: bool
    """Whether the answer takes the form of chat completions (else of completions)."""
    functions: frozenset[str] = frozenset()
    """That it offers to be called, unless it ends with the result of a call."""


def parse_generation(body: bytes, *, chat: bool) -> Generation:
    """Return the request of a body; raise BadRequestError."""
    try:
        row = json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRequestError("the body is no JSON object")
    model = row.get("model")
    if not isinstance(model, str):
        raise BadRequestError("'model' must be a string")
    texts, message = _chat_texts(row.get("messages")) if chat else _prompt_texts(row.get("prompt"))
    options = row.get("stream_options")
    return Generation(
        model=model,
        message=message,
        input_tokens=input_tokens(texts),
        max_tokens=_max_tokens(row),
        stream=row.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        chat=chat,
        functions=_functions(row) if chat else frozenset(),
    )


def _functions(row: Mapping[str, object]) -> frozenset[str]:
    tools, messages = row.get("tools"), row.get("messages")
    if not isinstance(tools, list) or not isinstance(messages, list) or messages[-1].get("role") == "tool":
        return frozenset()
    offered = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    names = [function.get("name") for function in offered if isinstance(function, dict)]
    return frozenset(name for name in names if isinstance(name, str))


def _max_tokens(row: Mapping[str, object]) -> int | None:
    limits: list[int] = []
    for name in ("max_completion_tokens", "max_tokens"):
        value = row.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadRequestError(f"{name!r} must be a whole number of at least 1")
        limits.append(value)
    return min(limits, default=None)


def _chat_texts(messages: object) -> tuple[list[str], str]:
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("'messages' must be a list with at least one message")
    texts, asked = [], ""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError("each message must be an object with a role")
        text = _content_text(message.get("content"))
        texts.append(text)
        if message["role"] == "user":
            asked = text
    return texts, asked


def _content_text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    raise BadRequestError("'content' must be a string or a list of parts")


def _prompt_texts(prompt: object) -> tuple[list[str], str]:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise BadRequestError("'prompt' must be a string")
    return [prompt], prompt


def error_body(message: str, kind: str, code: str) -> bytes:
    """Return OpenAI's error envelope."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def event(body: bytes) -> bytes:
    """Return `body` as one server-sent event."""
    return b"data: " + body + b"\n\n"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Writes the parts of one answer."""

    answer_id: str
    created: int
    model: str
    chat: bool
    function: str | None = None
    """What the answer calls, its texts being the arguments; None: it is text."""

    def whole(self, text: str, finish: str, usage: tuple[int, int]) -> bytes:
        """Return the body of an answer that is not streamed; `usage` = tokens in, out."""
        choice: dict[str, object] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if self.chat:
            message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
            if self.function is not None:
                message |= {"content": None, "tool_calls": [self._call(text, first=True)]}
                choice["finish_reason"] = "tool_calls" if finish == "stop" else finish
            choice["message"] = message
        else:
            choice["text"] = text
        return json.dumps(
            self._frame("chat.completion" if self.chat else "text_completion", [choice])
            | {"usage": _usage(usage)}
        ).encode()

    def piece(self, text: str, *, first: bool, finish: str | None = None) -> bytes:
        """Return the event that carries `text`, the last one with its `finish` reason."""
        choice: dict[str, object] = {"index": 0, "finish_reason": finish, "logprobs": None}
        if self.chat:
            said: dict[str, object] = {"content": text} if text else {}
            if self.function is not None and (first or text):
                said = {"tool_calls": [{"index": 0} | self._call(text, first=first)]}
            choice["delta"] = ({"role": "assistant"} if first else {}) | said
            if self.function is not None and finish == "stop":
                choice["finish_reason"] = "tool_calls"
        else:
            choice["text"] = text
        return event(json.dumps(self._frame(self._chunk_kind(), [choice])).encode())

    def usage(self, usage: tuple[int, int]) -> bytes:
        """Return the event that carries the usage and no choices."""
        return event(json.dumps(self._frame(self._chunk_kind(), []) | {"usage": _usage(usage)}).encode())

    def _call(self, arguments: str, *, first: bool) -> dict[str, object]:
        named: dict[str, object] = {"id": f"call-{self.answer_id}", "type": "function"} if first else {}
        name = {"name": self.function} if first else {}
        return named | {"function": name | {"arguments": arguments}}

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _frame(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    tokens_in, tokens_out = usage
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }
