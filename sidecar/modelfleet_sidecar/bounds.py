"""Stage batch, the edge: how many tokens a request may hold beside its texts, and what has no bound.

In: fields of a request that routing does not read itself. Out: a bound in tokens, or the name of the field
that has none. Next: `calls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelfleet_sidecar.request_text import Source, dump

OUTSIDE_PROMPT = frozenset(
    (
        *("messages", "model", "stream", "stream_options", "n", "user", "metadata", "store", "service_tier"),
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "logprobs", "top_logprobs", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "min_tokens"),
        *("reasoning_effort", "verbosity", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "reasoning"),
        *("prompt", "suffix", "echo", "input", "instructions", "encoding_format", "dimensions", "include"),
    )
)
"""Fields that never become part of the prompt beside what is counted of them elsewhere; any other might."""
UNBOUNDED_FIELDS = (
    "web_search_options",  # a hosted tool, billed per use
    "prediction",  # rejected predictions are billed on top of the answer
    "audio",  # billed at another price
    "best_of",  # candidates that are never returned but billed
    "use_beam_search",
    "chat_template",  # can expand the prompt at will
    "previous_response_id",  # stored context
    "conversation",
    "background",  # answers later, elsewhere
)
"""Fields that let a request cost more than its text and token limit tell."""
OWN_TOOLS = ("function", "custom")
"""Tools that the caller runs itself, whose calls are output as any other."""
TEMPLATE_TOKENS = 96
"""Tokens that a chat template may put before a conversation: a default system text, the date."""
TOOL_TOKENS = 512
"""Tokens of its instructions for tools."""


def field_tokens(fields: Mapping[str, object], source: Source | None) -> int:
    """Return a bound of the tokens of all fields that might become part of the prompt."""
    tokens = TEMPLATE_TOKENS + (TOOL_TOKENS if fields.get("tools") or fields.get("functions") else 0)
    for name, value in fields.items():
        if value and name not in OUTSIDE_PROMPT:
            text = source.of(name, value) if source is not None else None
            tokens += _text_tokens(f"{dump(name)}:{dump(value)}" if text is None else f"{name}:{text}")
    return tokens


def template_tokens(values: object) -> int:
    """Return a bound of the tokens that a chat template makes of JSON values. Raises Failure."""
    return _text_tokens(dump(values)) if values else 0


def unbounded_field(fields: Mapping[str, object]) -> str:
    """Return the field that leaves the cost without a bound; empty: there is none."""
    for name in UNBOUNDED_FIELDS:
        if fields.get(name) not in (None, False):
            return name
    if fields.get("service_tier") not in (None, "default", "flex"):
        return "service_tier"
    tools = fields.get("tools")
    if isinstance(tools, Sequence) and not isinstance(tools, str):
        for index, tool in enumerate(tools):
            if not isinstance(tool, dict) or tool.get("type") not in OWN_TOOLS:
                return f"tools[{index}]"
    return ""


def first(unbounded: Iterable[str]) -> str:
    """Return the first that names something."""
    return next(filter(None, unbounded), "")


def _text_tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(dump(text))
    # A token has at least one byte; templates write schemas out with line breaks and indents, which makes at
    # most two more tokens of a byte.
    return 3 * size
