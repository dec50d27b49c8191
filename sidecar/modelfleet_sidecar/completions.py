"""Stage batch, the edge: a legacy OpenAI completions request becomes a `Call`, or one `Failure`.

In: JSON text (HTTP). Out: `Call`. Next: `router`.
"""

from __future__ import annotations

from modelfleet_sidecar.bounds import field_tokens, template_tokens, unbounded_field
from modelfleet_sidecar.calls import AUTO, Call
from modelfleet_sidecar.chat import MAX_CHOICES, format_needs
from modelfleet_sidecar.dialect import COMPLETIONS
from modelfleet_sidecar.prompts import prompts
from modelfleet_sidecar.request_fields import flag, integer, mapping, string
from modelfleet_sidecar.request_text import read

LIMITS = ("max_tokens",)
COUNTED = frozenset({"prompt", "suffix"})


def parse_json(body: bytes) -> Call:
    """Parse the JSON text of a request. Raises Failure."""
    fields, source = read(body)
    asked = prompts(fields.get("prompt"), "prompt")
    suffix = string(fields, "suffix")
    options = mapping(fields, "stream_options")
    choices = integer(fields, "n", least=1, most=MAX_CHOICES)
    return Call(
        model=string(fields, "model") or AUTO,
        texts=(*asked.texts, suffix) if suffix else asked.texts,
        hidden_tokens=field_tokens(fields, source, COUNTED, times=asked.count)
        + (asked.count - 1) * template_tokens(suffix),  # each prompt has it
        # Unlike in chat, 0 is a limit: together with `echo` it asks for the prompt's own probabilities.
        asked_output_tokens=integer(fields, LIMITS[0], least=0),
        choices=asked.count * (1 if choices is None else choices),
        stream=flag(fields, "stream"),
        wants_usage=flag(options, "include_usage", "stream_options.include_usage"),
        unbounded=unbounded_field(fields),
        fields=fields,
        dialect=COMPLETIONS,
        limits=LIMITS,
        needs=frozenset({"completions", *format_needs(fields.get("response_format"))}),
        told_tokens=asked.tokens,
        source=source,
    )
