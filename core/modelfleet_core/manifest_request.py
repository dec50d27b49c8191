"""Stage spec: what a ModelFleet says of the requests that a model takes, and how they are changed for it.

In: the fields of a manifest's model. Out: typed values, or one `SpecError`. Next: `manifests` joins them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from modelfleet_core.catalog import MAX_TEMPLATE_TOKENS, TEMPLATE_TOKENS, RequestMapping
from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fields import Fields, shown, unique
from modelfleet_core.manifest_rules import MAX_PARAMS, MAX_PARAMS_DEPTH, MAX_PARAMS_TEXT, RESERVED

CAPABILITIES = (
    *("chat", "tools", "json", "vision", "audio", "files"),
    *("completions", "embeddings", "responses"),
)
MAX_PROMPT, MAX_RENAMED, MAX_REMOVED, MAX_NAME = 4096, 16, 32, 64
MAX_IMAGE_TOKENS = 1_000_000
LIMITS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
"""Names of the limit of an answer's tokens, under which a server must get the one that bounds the cost."""
REMOVABLE = frozenset({"user", "store", "service_tier"})
"""Of the reserved fields those that a server may do without."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROMPT = re.compile(r"(?s)\s*\S.*")
CHANGED = "says what is asked, or bounds what it costs"


def read_capabilities(fields: Fields) -> frozenset[str] | None:
    """Return what a model can do; None: it is not said."""
    if not fields.has("capabilities"):
        return None
    found = fields.choices("capabilities", CAPABILITIES)
    if not found:
        remedy = "name what the model can do, or leave it out for chat, tools, json and completions"
        raise SpecError(fields.at("capabilities"), "is empty", remedy)
    return found


def read_image_tokens(fields: Fields) -> int | None:
    """Return the most tokens of one image; None: it is not said."""
    if not fields.has("imageTokens"):
        return None
    return fields.integer("imageTokens", least=1, most=MAX_IMAGE_TOKENS)


def read_template_tokens(fields: Fields) -> int:
    """Return the most tokens that a chat template adds."""
    if not fields.has("templateTokens"):
        return TEMPLATE_TOKENS
    return fields.integer("templateTokens", least=TEMPLATE_TOKENS, most=MAX_TEMPLATE_TOKENS)


def read_request(fields: Fields) -> RequestMapping:
    """Return how requests are changed for a model."""
    request = fields.child("request")
    return RequestMapping(
        system_prompt=request.text("systemPrompt", pattern=PROMPT, rule="a text", longest=MAX_PROMPT)
        if request.has("systemPrompt")
        else "",
        rename=_rename(request),
        remove=_remove(request),
        defaults=_defaults(request),
    )


def _rename(request: Fields) -> Mapping[str, str]:
    rename = request.texts("rename", most=MAX_RENAMED, longest=MAX_NAME)
    path = request.at("rename")
    _named(path, (*rename, *rename.values()))
    for name, instead in rename.items():
        if name in RESERVED or instead in RESERVED:
            raise SpecError(f"{path}.{name}", CHANGED, "remove it")
        if (name in LIMITS) != (instead in LIMITS):
            remedy = f"rename a limit of tokens to one of {', '.join(sorted(LIMITS))}, and nothing else"
            raise SpecError(f"{path}.{name}", f"{shown(instead)} is refused", remedy)
        if instead in rename:
            raise SpecError(f"{path}.{name}", f"{shown(instead)} is renamed itself", "rename a field once")
    return rename


def _remove(request: Fields) -> frozenset[str]:
    names = request.strings("remove", most=MAX_REMOVED, longest=MAX_NAME)
    unique(request.at("remove"), "entry", names)
    _named(request.at("remove"), names)
    for index, name in enumerate(names):
        if name in LIMITS or (name in RESERVED and name not in REMOVABLE):
            raise SpecError(f"{request.at('remove')}[{index}]", CHANGED, "take it off the list")
    return frozenset(names)


def _defaults(request: Fields) -> Mapping[str, object]:
    found = request.json("defaults", most=MAX_PARAMS, longest=MAX_PARAMS_TEXT, deepest=MAX_PARAMS_DEPTH)
    for name in found:
        if name in LIMITS or name in RESERVED:
            raise SpecError(f"{request.at('defaults')}.{name}", CHANGED, "remove it")
    return found


def _named(path: str, names: Iterable[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise SpecError(path, f"{shown(name)} is refused", "write names of fields such as max_tokens")
