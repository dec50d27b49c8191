"""The gRPC edge, inwards: a `ChatRequest` becomes what OpenAI's JSON would say, or one `Failure`.

In: protobuf messages from `grpc_api`. Out: `Call`. Next: `router`.
"""

from __future__ import annotations

import base64
import re

from google.protobuf import json_format, struct_pb2
from modelfleet.v1 import router_pb2

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.failures import bad_field

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
_MEDIA_TYPE = re.compile(r"[a-zA-Z0-9.+-]{1,100}/[a-zA-Z0-9.+-]{1,100}")


def chat_call(chat: router_pb2.ChatRequest) -> Call:
    """Check and return a request. Raises Failure."""
    fields = _json(chat.parameters, "parameters") if chat.HasField("parameters") else {}
    for name, instead in OWN_FIELDS.items():
        if name in fields:
            raise bad_field(f"parameters.{name}", f"is not a parameter here; {instead}")
    fields["messages"] = [_message(message, index) for index, message in enumerate(chat.messages)]
    fields["model"] = chat.model
    if chat.HasField("max_output_tokens"):
        if chat.max_output_tokens == 0:
            raise bad_field("max_output_tokens", "must be at least 1; leave it out for the policy's limit")
        fields["max_tokens"] = min(chat.max_output_tokens, MOST_OUTPUT_TOKENS)
    return parse_fields(fields)


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
    if image.data:
        media_type = image.media_type or "image/png"
        if _MEDIA_TYPE.fullmatch(media_type) is None:
            raise bad_field(f"{where}.media_type", "must be a media type such as image/jpeg")
        url = f"data:{media_type};base64,{base64.b64encode(image.data).decode('ascii')}"
    else:
        url = image.url
    if not url:
        raise bad_field(where, "is empty; give its url, or its data")
    return {"url": url, **({"detail": image.detail} if image.detail else {})}


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
