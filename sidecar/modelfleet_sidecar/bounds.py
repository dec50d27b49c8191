"""Stage batch, the edge: how many tokens a request may hold beside its texts, and what has no bound.

In: fields of a request that routing does not read itself. Out: a bound in tokens, or the name of the field
that has none. Next: `calls`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelfleet_core.catalog import TEMPLATE_TOKENS

from modelfleet_sidecar.failures import bad_field
from modelfleet_sidecar.request_text import Source, dump

LIMITS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
)
"""Names that servers have for the most tokens of an answer. Some take one before that which a kind of calls
has: llama.cpp takes `n_predict`, also null, before `max_tokens` (its `oaicompat_chat_params_parse`)."""
OUTSIDE_PROMPT = frozenset(
    (
        *("model", "stream", "stream_options", "n", "user", "metadata", "store", "service_tier"),
        *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "logprobs", "top_logprobs", "logit_bias"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "min_tokens"),
        *("reasoning_effort", "verbosity", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"),
        *LIMITS,
        *("max_tool_calls", "reasoning", "echo", "encoding_format", "dimensions", "include"),
    )
)
"""Fields that never become part of the prompt beside what is counted of them elsewhere; any other might."""
UNBOUNDED_FIELDS = (
    "web_search_options",  # a hosted tool, billed per use
    "prediction",  # rejected predictions are billed on top of the answer
    "audio",  # billed at another price
    "best_of",  # candidates that are never returned but billed
    "n_cmpl",  # llama.cpp's other name for `n`
    "use_beam_search",
    "chat_template",  # can expand the prompt at will
    "previous_response_id",  # stored context
    "conversation",
    "background",  # answers later, elsewhere
    "cached_content",
    "data_sources",  # texts that the server looks up
    "search_parameters",
    "enable_search",
    "plugins",
    "models",  # who answers instead, at its own price
    "provider",
    "extra_body",  # whatever a provider has beside OpenAI's fields
    "mm_processor_kwargs",  # how many tokens an image becomes
    "media_io_kwargs",
)
"""Fields that let a request cost more than its text and token limit tell."""
DECIDING = frozenset(
    (
        *LIMITS,
        *UNBOUNDED_FIELDS,
        "model",
        "n",
        "stream",
        "stream_options",
        "service_tier",
        "modalities",
        "messages",
        "prompt",
        "suffix",
        "input",
        "instructions",
        "tools",
        "functions",
    )
)
"""Fields that servers must get as they were read here: by no other spelling, which some take for the same
(Go's `encoding/json` prefers exact names but takes any case)."""
OWN_TOOLS = ("function", "custom")
"""Tools that the caller runs itself, whose calls are output as any other."""
TOOL_TOKENS = 512
"""Tokens of a chat template's instructions for tools."""


def field_tokens(
    fields: Mapping[str, object], source: Source | None, counted: frozenset[str], *, times: int = 1
) -> int:
    """Return a bound of the tokens of all fields that might become part of the prompt, but for those that are
    `counted` elsewhere; of each of so many prompts. Raises Failure for the name of another field in
    disguise."""
    tokens = 0
    for name, value in fields.items():
        if name in OUTSIDE_PROMPT or name in counted:
            continue
        if name not in DECIDING and (plain := name.casefold()) in DECIDING:
            raise bad_field(name, f"is refused, since servers may take it for {plain}; write {plain}")
        if value:
            text = source.of(name, value) if source is not None else None
            tokens += _text_tokens(f"{dump(name)}:{dump(value)}" if text is None else f"{name}:{text}")
    template = TEMPLATE_TOKENS + (TOOL_TOKENS if fields.get("tools") or fields.get("functions") else 0)
    return template + times * tokens


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
    if fields.get("modalities") not in (None, ["text"]):
        return "modalities"
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
