"""Stage batch, the edge: an OpenAI chat request becomes a `ChatCall`, or one `Failure` naming the field.

In: JSON text (HTTP) or an object (gRPC). Out: `ChatCall`, and `upstream_body`, the same request as a model
server must get it. Fields that the router does not know are forwarded untouched. Next: `router`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modelfleet_sidecar.failures import Failure, Fault, bad_field

MAX_CHOICES = 128
AUTO = "auto"
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
UNBOUNDED_FIELDS = (
    "web_search_options",  # a hosted tool, billed per use
    "prediction",  # rejected predictions are billed on top of the answer
    "audio",  # billed at another price
    "best_of",  # candidates that are never returned but billed
    "use_beam_search",
    "chat_template",  # can expand the prompt at will
    "previous_response_id",  # stored context
)
"""Fields that let a request cost more than its text and token limit tell."""


OUTSIDE_PROMPT = frozenset(
    (
        *("messages", "model", "stream", "stream_options", "n", "user", "metadata", "store", "service_tier"),
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "logprobs", "top_logprobs", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "min_tokens"),
        *("reasoning_effort", "verbosity", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"),
        *TOKEN_LIMITS,
    )
)
"""Fields that never become part of the prompt; any other might."""
TEMPLATE_TOKENS = 96
"""Tokens that a chat template may put before a conversation: a default system text, the date."""
TOOL_TOKENS = 512
"""Tokens of its instructions for tools."""
USUAL_ROLE = 16
"""Bytes of a role's name that the frame of a message covers."""


@dataclass(frozen=True, slots=True, eq=False)
class ChatCall:
    """One chat request. `fields` is the whole request; the rest is what routing needs of it."""

    model: str
    """"auto", or a name to pin."""
    texts: tuple[str, ...]
    """Text of each message."""
    hidden_tokens: int
    """Bound of what the prompt may hold besides `texts`: tools, schemas, names."""
    asked_output_tokens: int | None
    """Per choice; None: not limited by the caller."""
    choices: int
    stream: bool
    wants_usage: bool
    """The caller asked for usage at the end of the stream."""
    unbounded: str
    """The field that leaves the cost without a bound; empty: there is none."""
    fields: Mapping[str, object]


def parse_json(body: bytes) -> ChatCall:
    """Parse the JSON text of a request. Raises Failure."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", "the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        problem = f"the body is not UTF-8: byte {error.start} can not be read"
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", problem) from None
    except ValueError as error:
        where = (
            f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", f"the body is not JSON: {what}{where}") from None
    if not isinstance(value, dict):
        problem = f"the body must be a JSON object, not {_kind(value)}"
        raise Failure(Fault.BAD_REQUEST, "InvalidField", problem)
    return parse_fields(value)


def parse_fields(fields: Mapping[str, object]) -> ChatCall:
    """Check the fields that routing needs. Raises Failure."""
    texts, part = _texts(fields.get("messages"))
    limits = [_integer(fields, name, least=1) for name in TOKEN_LIMITS]
    asked = min((limit for limit in limits if limit is not None), default=None)
    choices = _integer(fields, "n", least=1, most=MAX_CHOICES)
    options = _object(fields, "stream_options")
    return ChatCall(
        model=_string(fields, "model") or AUTO,
        texts=texts,
        hidden_tokens=_hidden_tokens(fields),
        asked_output_tokens=asked,
        choices=1 if choices is None else choices,
        stream=_flag(fields, "stream", "stream"),
        wants_usage=_flag(options, "include_usage", "stream_options.include_usage"),
        unbounded=part or _unbounded(fields),
        fields=fields,
    )


def with_params(call: ChatCall, params: Mapping[str, object]) -> ChatCall:
    """Return `call` with those of a rule's `params` that its caller left out.

    `params` are as `manifest_rules` lets them pass: no field that says what is asked, or lets the cost grow
    beyond its bound. A limit of output tokens counts as the caller's, by whichever name it gave one.
    """
    left_out = {name: value for name, value in params.items() if call.fields.get(name) is None}
    if call.asked_output_tokens is not None:
        left_out = {name: value for name, value in left_out.items() if name not in TOKEN_LIMITS}
    if not left_out:
        return call
    limits = [value for name, value in left_out.items() if name in TOKEN_LIMITS and isinstance(value, int)]
    in_prompt = {name: value for name, value in left_out.items() if name not in OUTSIDE_PROMPT}
    return replace(
        call,
        fields={**call.fields, **left_out},
        asked_output_tokens=min(limits, default=call.asked_output_tokens),
        hidden_tokens=call.hidden_tokens + (_template_tokens(in_prompt) if in_prompt else 0),
    )


def upstream_body(call: ChatCall, *, served_name: str, max_output_tokens: int, stream: bool) -> bytes:
    """Return the request for the model server; it asks for at most `max_output_tokens` per choice."""
    fields = dict(call.fields)
    fields["model"] = served_name
    named = [name for name in TOKEN_LIMITS if fields.get(name) is not None]
    for name in named or TOKEN_LIMITS[:1]:
        fields[name] = max_output_tokens
    if stream:
        fields["stream"] = True
        # Without usage the stream would have to be settled at its upper bound.
        fields["stream_options"] = {**_object(fields, "stream_options"), "include_usage": True}
    else:
        fields.pop("stream", None)
        fields.pop("stream_options", None)
    try:
        return json.dumps(fields, separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", "the request is nested too deeply") from None


def _texts(messages: object) -> tuple[tuple[str, ...], str]:
    """Return each message's text, and the first part whose cost has no bound."""
    if messages is None:
        raise bad_field("messages", "is missing; give the conversation as a list of messages")
    if not isinstance(messages, list):
        raise bad_field("messages", f"must be a list of messages, not {_kind(messages)}")
    if not messages:
        raise bad_field("messages", "is empty; give at least one message")
    texts: list[str] = []
    unbounded = ""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise bad_field(where, f"must be an object with role and content, not {_kind(message)}")
        if not isinstance(message.get("role"), str):
            raise bad_field(
                f"{where}.role", f"must be a string such as user, not {_kind(message.get('role'))}"
            )
        text, part = _content(message.get("content"), f"{where}.content")
        texts.append(text)
        unbounded = unbounded or part
    return tuple(texts), unbounded


def _content(content: object, where: str) -> tuple[str, str]:
    if content is None:  # as in an assistant's message that only calls tools
        return "", ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise bad_field(where, f"must be a string or a list of parts, not {_kind(content)}")
    texts: list[str] = []
    unbounded = ""
    for index, part in enumerate(content):
        at = f"{where}[{index}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise bad_field(at, "must be an object with a type such as text")
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise bad_field(f"{at}.text", f"must be a string, not {_kind(part.get('text'))}")
            texts.append(part["text"])
        elif part["type"] != "refusal":
            unbounded = unbounded or at
    return "\n".join(texts), unbounded


def _hidden_tokens(fields: Mapping[str, object]) -> int:
    """Return a bound of the prompt's tokens that are in no message's text."""
    hidden: list[object] = [value for name, value in fields.items() if name not in OUTSIDE_PROMPT and value]
    messages = fields["messages"]
    assert isinstance(messages, list)  # noqa: S101 - checked before
    for message in messages:
        if len(message["role"]) > USUAL_ROLE:
            hidden.append(message["role"])
        hidden += [value for name, value in message.items() if name not in ("role", "content") and value]
        if isinstance(message.get("content"), list):
            hidden += [part for part in message["content"] if part["type"] != "text"]
    tokens = TEMPLATE_TOKENS + (TOOL_TOKENS if fields.get("tools") or fields.get("functions") else 0)
    if not hidden:
        return tokens
    return tokens + _template_tokens(hidden)


def _template_tokens(values: object) -> int:
    """Return a bound of the tokens that a chat template makes of JSON values. Raises Failure."""
    try:
        size = len(json.dumps(values).encode("utf-8", "replace"))
    except RecursionError:
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", "the request is nested too deeply") from None
    # A token has at least one byte; templates write schemas out with line breaks and indents, which makes at
    # most two more tokens of a byte.
    return 3 * size


def _unbounded(fields: Mapping[str, object]) -> str:
    for name in UNBOUNDED_FIELDS:
        if fields.get(name) not in (None, False):
            return name
    if fields.get("service_tier") not in (None, "default", "flex"):
        return "service_tier"
    tools = fields.get("tools")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        for index, tool in enumerate(tools):
            if not isinstance(tool, dict) or tool.get("type") not in ("function", "custom"):
                return f"tools[{index}]"
    return ""


def _string(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_field(name, f"must be a string, not {_kind(value)}")
    return value


def _integer(fields: Mapping[str, object], name: str, *, least: int, most: int = 2**31 - 1) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        given = str(value) if isinstance(value, float) else _kind(value)
        raise bad_field(name, f"must be a whole number, not {given}")
    if not least <= value <= most:
        raise bad_field(name, f"must be from {least} to {most}")
    return value


def _flag(fields: Mapping[str, object], name: str, where: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_field(where, f"must be true or false, not {_kind(value)}")
    return bool(value)


def _object(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_field(name, f"must be an object, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    """Name a JSON value's type in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")
