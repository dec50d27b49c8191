"""Stage forward, what a server says that it can not do at all, whatever the fleet says of its model.

In: a server's refusal, and the call. Out: the capability that it lacks; for a while requests that need it go
to others. Next: `upstream_errors` says so in its failure, `prospect` leaves the variant out.

Only a whole sentence that servers say of themselves counts, or a path that is not there: a refusal may quote
the request, and no caller's text may keep a model from others. A 404 that may mean the model's name does not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

from modelfleet_core.values import VariantKey

from modelfleet_sidecar.calls import Call

log = logging.getLogger(__name__)

LASTS = 60.0
"""Seconds for which a variant is left out, unless nothing else is left."""
NOTHING: Mapping[VariantKey, frozenset[str]] = {}
NO_PATH = frozenset({404, 405, 501})
ELSEWHERE = frozenset({"completions", "embeddings", "responses"})
"""Kinds of calls that have a path of their own, which many servers do not have."""
SENTENCES = tuple(
    (need, re.compile(sentence))
    for need, sentence in (
        ("tools", r"\S+ does not support tools"),  # Ollama
        ("tools", r'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        ("vision", r"image input is not supported - hint: .*"),  # llama.cpp, as the next two; above: vLLM
        ("audio", r"audio input is not supported - hint: .*"),
        ("embeddings", r"[Tt]his (server|model) does not support embeddings.*"),
        ("embeddings", r"The model does not support Embeddings API"),  # vLLM
    )
)


def lacking(call: Call, status: int, said: str) -> str:
    """Return what the call needs and its server has not, as a refusal says; empty: it says nothing of it."""
    for need, sentence in SENTENCES:
        if need in call.needs and sentence.fullmatch(said):
            return need
    # What is stored at a server may be what is not there.
    absent = status in NO_PATH and "model" not in said.lower() and not call.unbounded
    return call.dialect.name if absent and call.dialect.name in ELSEWHERE else ""


class Incapable:
    """What variants turned out to lack lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[tuple[VariantKey, str], float] = {}

    def refused(self, variant: VariantKey, need: str) -> None:
        """A variant's server said that it has not what a request needs."""
        now = self._clock()
        if now >= self._until.get((variant, need), now):
            log.warning(
                "model %s refused a request since its server has no %s: take that off the capabilities of "
                "the model in the fleet (or name those that it has), or set up the server for it; for %g s "
                "such requests go elsewhere where they can",
                variant,
                need,
                LASTS,
            )
        self._until[variant, need] = now + LASTS

    def lacks(self) -> Mapping[VariantKey, frozenset[str]]:
        """Return what each variant lacks now; absent ones lack nothing that is known."""
        if not self._until:
            return NOTHING
        now = self._clock()
        self._until = {known: until for known, until in self._until.items() if now < until}
        found: dict[VariantKey, frozenset[str]] = {}
        for variant, need in self._until:
            found[variant] = found.get(variant, frozenset()) | {need}
        return found
