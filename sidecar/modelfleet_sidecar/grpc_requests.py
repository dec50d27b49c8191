"""The gRPC edge, inwards: a `ChatRequest` becomes what OpenAI's JSON would say, or one `Failure`.

In: protobuf messages from `grpc_api`. Out: `Call`. Next: `router`.
"""

from __future__ import annotations

import binascii
import re

from google.protobuf import json_format, struct_pb2
from modelfleet.v1 import router_pb2

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.request_text import Place, Source, dump

MOST_OUTPUT_TOKENS = 2**31 - 1
"""Any more means the policy's limit as well."""
OWN_FIELDS = {
    "model": "use the message's own field model",
    "messages": "use the message's own field messages",
    "max_tokens": "use the message's own field max_output_tokens",
    "max_completion_tokens": "use the message's own field max_output_tokens",
    "stream": "call Chat for a stream and Complete for a whole answer",
    "stream_options": "leave it out, the last chunk of Chat always has the usage",
    "n": "this API returns one choice, call it again for another",
}
"""Fields that `parameters` may not hold, and what to do instead."""
MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")
"""Fields that a message's `other` may not hold."""
_PIECE = 3 * 256 * 1024
"""Bytes that are put into base64 at once: a millisecond or so."""
_MEDIA_TYPE = re.compile(r"[a-zA-Z0-9.+-]{1,100}/[a-zA-Z0-9.+-]{1,100}")


def chat_call(chat: router_pb2.ChatRequest) -> Call:
    """Check and return a request. Raises Failure."""
    fields = _json(chat.parameters, "parameters") if chat.HasField("parameters") else {}
    for name, instead in OWN_FIELDS.items():
        if name in fields:
            raise bad_field(f"parameters.{name}", f"is not a parameter here; {instead}")
    messages = [_message(message, index) for index, message in enumerate(chat.messages)]
    fields["messages"] = messages
    fields["model"] = chat.model
    if chat.HasField("max_output_tokens"):
        if chat.max_output_tokens == 0:
            raise bad_field("max_output_tokens", "must be at least 1; leave it out for the policy's limit")
        fields["max_tokens"] = min(chat.max_output_tokens, MOST_OUTPUT_TOKENS)
    return parse_fields(fields, _source(messages))


class _Picture(str):
    """A data URL made here, in which JSON escapes nothing: it need not be searched for what it would."""

    __slots__ = ()


def _message(message: router_pb2.Message, index: int) -> dict[str, object]:
    where = f"messages[{index}]"
    if not message.role:
        raise bad_field(f"{where}.role", "is empty; give a role such as user")
    fields: dict[str, object] = {}
    if message.HasField("other"):
        fields = _json(message.other, f"{where}.other")
        for name in MESSAGE_FIELDS:
            if name in fields:
                raise bad_field(f"{where}.other.{name}", f"use the message's own field {name}")
    fields["role"] = message.role
    fields["content"] = message.content
    if message.parts:
        if message.content:
            raise bad_field(f"{where}.content", "is given beside parts; put the text into a part")
        fields["content"] = [
            _part(part, f"{where}.parts[{number}]") for number, part in enumerate(message.parts)
        ]
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
        fields["content"] = fields["content"] or None
    return fields


def _part(part: router_pb2.Part, where: str) -> dict[str, object]:
    match part.WhichOneof("part"):
        case "text":
            return {"type": "text", "text": part.text}
        case "image":
            return {"type": "image_url", "image_url": _image(part.image, f"{where}.image")}
        case "other":
            return _json(part.other, f"{where}.other")
        case _:
            raise bad_field(where, "is empty; give a text, an image or other")


def _image(image: router_pb2.Image, where: str) -> dict[str, object]:
    detail = {"detail": image.detail} if image.detail else {}
    if not image.data:
        if not image.url:
            raise bad_field(where, "is empty; give its url, or its data")
        return {"url": image.url, **detail}
    media_type = image.media_type or "image/png"
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise bad_field(f"{where}.media_type", "must be a media type such as image/jpeg")
    return {"url": _Picture(f"data:{media_type};base64,{_base64(image.data)}"), **detail}


def _base64(data: bytes) -> str:
    """Return `data` in base64, piece by piece, so that another thread may have its turn between."""
    pieces = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
    return "".join(binascii.b2a_base64(piece, newline=False).decode("ascii") for piece in pieces)


def _source(messages: list[dict[str, object]]) -> Source | None:
    """Return the messages as JSON where pictures are among them; None: whoever sends them writes them."""
    parts = [
        part for message in messages if isinstance(message["content"], list) for part in message["content"]
    ]
    if not any(isinstance(_url(part), _Picture) for part in parts):
        return None
    text = f"[{','.join(_written(message) for message in messages)}]"
    return Source(text, {"messages": Place(messages, 0, len(text))})


def _written(message: dict[str, object]) -> str:
    content = message["content"]
    if not isinstance(content, list):
        return dump(message)
    others = {name: value for name, value in message.items() if name != "content"}
    return f'{dump(others)[:-1]},"content":[{",".join(map(_written_part, content))}]}}'


def _written_part(part: dict[str, object]) -> str:
    url = _url(part)
    if not isinstance(url, _Picture):
        return dump(part)
    image = part["image_url"]
    assert isinstance(image, dict)  # noqa: S101 - it has that URL
    others = {name: value for name, value in image.items() if name != "url"}
    return f'{{"type":"image_url","image_url":{{"url":"{url}"{"," if others else ""}{dump(others)[1:]}}}'


def _url(part: dict[str, object]) -> object:
    image = part.get("image_url")
    return image.get("url") if isinstance(image, dict) else None


def _json(struct: struct_pb2.Struct, where: str) -> dict[str, object]:
    try:
        values = json_format.MessageToDict(struct)
    except (json_format.Error, ValueError):
        raise bad_field(
            where, "holds NaN or Infinity, which JSON can not say, or a value of no kind"
        ) from None
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """Give back their form to whole numbers, which a Struct keeps as floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
