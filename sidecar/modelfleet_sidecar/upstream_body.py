"""Stage forward, its request: a `Call` as a model server must get it.

In: a `Call`, and what was decided of it. Out: JSON. What nobody has to change goes on byte for byte.
Next: `forward` sends it.
"""

from __future__ import annotations

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.dialect import CHAT, COMPLETIONS
from modelfleet_sidecar.request_fields import mapping
from modelfleet_sidecar.request_text import write


def upstream_body(call: Call, *, served_name: str, max_output_tokens: int, stream: bool) -> bytes:
    """Return the request for the model server; it asks for at most `max_output_tokens` per choice."""
    fields = dict(call.fields)
    fields["model"] = served_name
    named = [name for name in call.limits if fields.get(name) is not None]
    for name in named or call.limits[:1]:
        fields[name] = max_output_tokens
    if not stream:
        fields.pop("stream", None)
        fields.pop("stream_options", None)
    else:
        fields["stream"] = True
        if call.dialect in (CHAT, COMPLETIONS):
            # Without usage the stream would have to be settled at its upper bound.
            fields["stream_options"] = {**mapping(fields, "stream_options"), "include_usage": True}
    return write(fields, call.source)
