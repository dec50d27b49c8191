"""Stage forward, its request: a `Call` as one model's server must get it.

In: a `Call`, what was decided of it, and what the model needs to have changed. Out: JSON. What nobody has to
change goes on byte for byte. Next: `forward` sends it.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.catalog import RequestMapping

from modelfleet_sidecar.bounds import LIMITS
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.dialect import CHAT, COMPLETIONS, RESPONSES
from modelfleet_sidecar.request_fields import mapping
from modelfleet_sidecar.request_text import Source, Written, dump, write

AS_IT_IS = RequestMapping()
SYSTEM = frozenset({"system", "developer"})


def upstream_body(
    call: Call, *, served_name: str, max_output_tokens: int, stream: bool, changes: RequestMapping = AS_IT_IS
) -> bytes:
    """Return the request for the model server; it asks for at most `max_output_tokens` per choice."""
    fields = dict(call.fields)
    fields["model"] = served_name
    named = [name for name in call.limits if fields.get(name) is not None]
    for name in named or call.limits[:1]:
        fields[name] = max_output_tokens
    _lower(fields, call, max_output_tokens)
    if not stream:
        fields.pop("stream", None)
        fields.pop("stream_options", None)
    else:
        fields["stream"] = True
        if call.dialect in (CHAT, COMPLETIONS):
            # Without usage the stream would have to be settled at its upper bound.
            fields["stream_options"] = {**mapping(fields, "stream_options"), "include_usage": True}
    if changes == AS_IT_IS:
        return write(fields, call.source)
    for name, value in changes.defaults.items():
        if fields.get(name) is None:
            fields[name] = value
    for name in changes.remove:
        fields.pop(name, None)
    if changes.system_prompt and takes_system_prompt(call):
        _instruct(fields, changes.system_prompt, call)
    _rename(fields, call.source, changes.rename)
    _lower(fields, call, max_output_tokens)
    return write(fields, call.source)


def _within(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value <= limit


def takes_system_prompt(call: Call) -> bool:
    """Return whether requests of this kind have a place for it."""
    return call.dialect in (CHAT, RESPONSES)


def _lower(fields: dict[str, object], call: Call, limit: int) -> None:
    """Let whatever else a server may take for the limit be none above it; null would be no limit at all."""
    if not call.limits:
        return
    for name in LIMITS:
        if name in fields and name not in call.limits and not _within(fields[name], limit):
            fields[name] = limit


def _rename(fields: dict[str, object], source: Source | None, rename: Mapping[str, str]) -> None:
    """Put fields under the names that the server takes; where the caller gave both, the server's holds."""
    for name, instead in rename.items():
        if name in fields:
            value = fields.pop(name)
            if fields.get(instead) is None:
                text = source.of(name, value) if source is not None else None
                fields[instead] = value if text is None else Written(text)


def _instruct(fields: dict[str, object], prompt: str, call: Call) -> None:
    """Put `prompt` before the first system message, as a part of it, or before the conversation."""
    if call.dialect is RESPONSES:
        fields["instructions"] = _before(prompt, fields.get("instructions"))
        return
    messages = fields["messages"]
    assert isinstance(messages, list)  # noqa: S101 - checked when it was parsed
    place = next((j for j, message in enumerate(messages) if message["role"] in SYSTEM), None)
    if place is not None:
        first = {**messages[place], "content": _before(prompt, messages[place].get("content"))}
        fields["messages"] = [*messages[:place], first, *messages[place + 1 :]]
        return
    added = {"role": "system", "content": prompt}
    text = call.source.of("messages", messages) if call.source is not None else None
    fields["messages"] = [added, *messages] if text is None else Written(f"[{dump(added)},{text[1:]}")


def _before(prompt: str, content: object) -> object:
    """Return what a system message says with `prompt` before it."""
    if isinstance(content, list):
        return [{"type": "text", "text": prompt}, *content]
    return f"{prompt}\n\n{content}" if content else prompt
