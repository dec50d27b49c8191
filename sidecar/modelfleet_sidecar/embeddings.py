"""Stage batch, the edge: an OpenAI embeddings request becomes a `Call`, or one `Failure`.

In: JSON text (HTTP). Out: `Call`, whose answers have no tokens. Next: `router`.
"""

from __future__ import annotations

from modelfleet_sidecar.bounds import field_tokens, unbounded_field
from modelfleet_sidecar.calls import AUTO, Call
from modelfleet_sidecar.dialect import EMBEDDINGS
from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.prompts import prompts
from modelfleet_sidecar.request_fields import flag, string
from modelfleet_sidecar.request_text import read

COUNTED = frozenset({"input"})


def parse_json(body: bytes) -> Call:
    """Parse the JSON text of a request. Raises Failure."""
    fields, source = read(body)
    asked = prompts(fields.get("input"), "input")
    if flag(fields, "stream"):
        raise bad_field("stream", "is not possible for embeddings; leave it out")
    return Call(
        model=string(fields, "model") or AUTO,
        texts=asked.texts,
        hidden_tokens=field_tokens(fields, source, COUNTED, times=asked.count),
        asked_output_tokens=0,
        choices=1,
        stream=False,
        wants_usage=False,
        # Some servers embed these in place of `input`, with images.
        unbounded=unbounded_field(fields) or ("messages" if fields.get("messages") is not None else ""),
        fields=fields,
        dialect=EMBEDDINGS,
        limits=(),
        needs=frozenset({"embeddings"}),
        told_tokens=asked.tokens,
        source=source,
    )
