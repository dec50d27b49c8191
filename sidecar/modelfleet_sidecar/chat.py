"""Stage batch, the edge: an OpenAI chat request becomes a `Call`, or one `Failure` naming the field.

In: JSON text (HTTP) or an object (gRPC). Out: `Call`. Fields that the router does not know are forwarded
untouched. Next: `router`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_sidecar.bounds import field_tokens, first, template_tokens, unbounded_field
from modelfleet_sidecar.calls import AUTO, CHAT_LIMITS, Call
from modelfleet_sidecar.content import Held
from modelfleet_sidecar.dialect import CHAT
from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.request_fields import flag, integer, kind_of, mapping, string
from modelfleet_sidecar.request_text import Source, read

MAX_CHOICES = 128
USUAL_ROLE = 16
"""Bytes of a role's name that the frame of a message covers."""
JSON_FORMATS = frozenset({"json_object", "json_schema"})
COUNTED = frozenset({"messages"})
"""Fields whose tokens are counted as what they hold."""
_FRAME = frozenset({"role", "content"})


def parse_json(body: bytes) -> Call:
    """Parse the JSON text of a request. Raises Failure."""
    fields, source = read(body)
    return parse_fields(fields, source)


def parse_fields(fields: Mapping[str, object], source: Source | None = None) -> Call:
    """Check the fields that routing needs; `source` is their text, None: there is none. Raises Failure."""
    held = _held(fields.get("messages"))
    limits = [integer(fields, name, least=1) for name in CHAT_LIMITS]
    options = mapping(fields, "stream_options")
    choices = integer(fields, "n", least=1, most=MAX_CHOICES)
    return Call(
        model=string(fields, "model") or AUTO,
        texts=tuple(held.texts),
        hidden_tokens=held.hidden_tokens + field_tokens(fields, source, COUNTED),
        asked_output_tokens=min((limit for limit in limits if limit is not None), default=None),
        choices=1 if choices is None else choices,
        stream=flag(fields, "stream"),
        wants_usage=flag(options, "include_usage", "stream_options.include_usage"),
        unbounded=first((held.unbounded, unbounded_field(fields))),
        fields=fields,
        dialect=CHAT,
        limits=CHAT_LIMITS,
        needs=frozenset({"chat", *held.needs, *_needs(fields)}),
        images=held.images,
        source=source,
    )


def _held(messages: object) -> Held:
    if messages is None:
        raise bad_field("messages", "is missing; give the conversation as a list of messages")
    if not isinstance(messages, list):
        raise bad_field("messages", f"must be a list of messages, not {kind_of(messages)}")
    if not messages:
        raise bad_field("messages", "is empty; give at least one message")
    held = Held()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise bad_field(where, f"must be an object with role and content, not {kind_of(message)}")
        role = message.get("role")
        if not isinstance(role, str):
            raise bad_field(f"{where}.role", f"must be a string such as user, not {kind_of(role)}")
        held.add(message.get("content"), f"{where}.content")
        if len(role) > USUAL_ROLE:
            held.hidden_tokens += template_tokens(role)
        if not message.keys() <= _FRAME:
            held.add_others(message, _FRAME, where)
    return held


def format_needs(wanted: object) -> tuple[str, ...]:
    """Return what a format of answers needs a model to be capable of."""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    return ("json",) if isinstance(kind, str) and kind in JSON_FORMATS else ()


def _needs(fields: Mapping[str, object]) -> tuple[str, ...]:
    tools = ("tools",) if fields.get("tools") or fields.get("functions") else ()
    return (*tools, *format_needs(fields.get("response_format")))
