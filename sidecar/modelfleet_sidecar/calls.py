"""Stage batch, the edge: one request of any kind, as routing sees it.

In: what `chat`, `completions`, `embeddings` and `responses` parse. Out: `Call`. Next: `asking`, which routes
it, and `upstream_body`, which writes it for a model server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from modelfleet_sidecar.bounds import OUTSIDE_PROMPT, template_tokens
from modelfleet_sidecar.dialect import CHAT, Dialect
from modelfleet_sidecar.request_text import Source

AUTO = "auto"
LARGE = 256 * 1024
"""Bytes or characters of a request above which it is read and written beside the event loop."""
CHAT_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request. `fields` is the whole of it; the rest is what routing needs of it."""

    model: str
    """"auto", or a name to pin."""
    texts: tuple[str, ...]
    """Text of each message or prompt."""
    hidden_tokens: int
    """Bound of what the prompt may hold besides texts, told tokens and images: tools, schemas, names."""
    asked_output_tokens: int | None
    """Per choice; None: not limited by the caller."""
    choices: int
    """Answers in all: of each prompt as many as asked for."""
    stream: bool
    wants_usage: bool
    """The caller asked for usage at the end of the stream."""
    unbounded: str
    """The field that leaves the cost without a bound; empty: there is none."""
    fields: Mapping[str, object]
    dialect: Dialect = CHAT
    """Where it is sent, and what its answers look like."""
    limits: tuple[str, ...] = CHAT_LIMITS
    """Fields that limit the tokens of an answer; the first is set where the caller gave none. None of them:
    answers have no tokens."""
    needs: frozenset[str] = frozenset()
    """What a model must be capable of."""
    images: int = 0
    """Each costs what its model counts for one."""
    told_tokens: int = 0
    """Input tokens that the caller gave as such."""
    source: Source | None = None
    """The text of `fields`; None: there is none to keep."""

    @property
    def large(self) -> bool:
        """Whether reading or writing it would keep the event loop, so that it is done beside it."""
        return self.source is not None and len(self.source.text) > LARGE


def with_params(call: Call, params: Mapping[str, object]) -> Call:
    """Return `call` with those of a rule's `params` that its caller left out.

    `params` are as `manifest_rules` lets them pass: no field that says what is asked, or lets the cost grow
    beyond its bound. A limit of output tokens counts as the caller's, by whichever name it gave one, and
    under the name that calls of this kind have for it.
    """
    named: dict[str, object] = {}
    for name, value in params.items():
        if name not in CHAT_LIMITS or name in call.limits:
            named[name] = value
        elif call.limits:
            named.setdefault(call.limits[0], value)
    left_out = {name: value for name, value in named.items() if call.fields.get(name) is None}
    if call.asked_output_tokens is not None:
        left_out = {name: value for name, value in left_out.items() if name not in call.limits}
    if not left_out:
        return call
    limits = [value for name, value in left_out.items() if name in call.limits and isinstance(value, int)]
    in_prompt = {name: value for name, value in left_out.items() if name not in OUTSIDE_PROMPT}
    return replace(
        call,
        fields={**call.fields, **left_out},
        asked_output_tokens=min(limits, default=call.asked_output_tokens),
        hidden_tokens=call.hidden_tokens + (template_tokens(in_prompt) if in_prompt else 0),
    )
