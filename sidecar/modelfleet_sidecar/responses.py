"""Stage batch, the edge: an OpenAI responses request becomes a `Call`, or one `Failure` naming the field.

In: JSON text (HTTP). Out: `Call`. The request goes on as it is to a model that speaks this API; what is
stored at its server (`previous_response_id`, `conversation`, `prompt`, items by id) has no bound.
Next: `router`.
"""

from __future__ import annotations

from modelfleet_sidecar.bounds import field_tokens, first, template_tokens, unbounded_field
from modelfleet_sidecar.calls import AUTO, Call
from modelfleet_sidecar.chat import format_needs
from modelfleet_sidecar.content import Held
from modelfleet_sidecar.dialect import RESPONSES
from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.request_fields import flag, integer, kind_of, mapping, string
from modelfleet_sidecar.request_text import read

LIMITS = ("max_output_tokens",)
COUNTED = frozenset({"input", "instructions"})
BOUNDED = frozenset(
    {"function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning"}
)
"""Items besides messages that are no longer than they look; others stand for what only the server knows, or
for what it has looked up, run or seen."""
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
_MESSAGE = frozenset({"type", "role", "content", "id", "status"})


def parse_json(body: bytes) -> Call:
    """Parse the JSON text of a request. Raises Failure."""
    fields, source = read(body)
    held = Held()
    instructions = string(fields, "instructions")
    if instructions:
        held.add(instructions, "instructions")
    _add(held, fields.get("input"), optional=fields.get("prompt") is not None)
    return Call(
        model=string(fields, "model") or AUTO,
        texts=tuple(held.texts),
        hidden_tokens=held.hidden_tokens + field_tokens(fields, source, COUNTED),
        asked_output_tokens=integer(fields, LIMITS[0], least=1),
        choices=1,
        stream=flag(fields, "stream"),
        wants_usage=True,
        unbounded=first(
            (
                held.unbounded,
                unbounded_field(fields),
                "prompt" if fields.get("prompt") is not None else "",
                "n" if fields.get("n") not in (None, 1) else "",
            )
        ),
        fields=fields,
        dialect=RESPONSES,
        limits=LIMITS,
        needs=frozenset(
            {
                "responses",
                *held.needs,
                *(("tools",) if fields.get("tools") else ()),
                *format_needs(mapping(fields, "text").get("format")),
            }
        ),
        images=held.images,
        source=source,
    )


def _add(held: Held, given: object, *, optional: bool) -> None:
    if given is None and optional:
        return
    if isinstance(given, str):
        held.add(given, "input")
        return
    if given is None:
        raise bad_field("input", "is missing; give a string or a list of items")
    if not isinstance(given, list):
        raise bad_field("input", f"must be a string or a list of items, not {kind_of(given)}")
    if not given and not optional:
        raise bad_field("input", "is empty; give at least one item")
    for index, item in enumerate(given):
        at = f"input[{index}]"
        if not isinstance(item, dict):
            raise bad_field(at, f"must be an object such as a message, not {kind_of(item)}")
        kind = item.get("type")
        if not isinstance(kind, str | None):
            raise bad_field(f"{at}.type", f"must be a string such as message, not {kind_of(kind)}")
        if kind in (None, "message"):
            if item.get("content") is None:  # what the server has stored, by its id
                held.unbounded = held.unbounded or at
            held.add(item.get("content"), f"{at}.content")
            if not item.keys() <= _MESSAGE:
                held.add_others(item, _MESSAGE, at)
        elif kind in OUTPUTS and isinstance(item.get("output"), str | list):
            held.add(item["output"], f"{at}.output")
        else:
            by_id = kind == "reasoning" and not item.get("encrypted_content") and not item.get("content")
            if by_id or kind not in BOUNDED:
                held.unbounded = held.unbounded or at
            held.hidden_tokens += template_tokens(item)
