"""Stage assign, its memory of sessions: where a conversation's prompt is cached, and what that is worth.

In: each decision on a request of a session. Out: `Cached`, for the next one of it. Next: `prospect` takes it
off cost and time of the variant, and the placer prefers the endpoint. Holds hashes and numbers, no text.

A conversation grows at its end, so what the server has seen of it is a prefix of the next prompt. Servers
keep prompts until others push them out; how long nobody tells, so that what is expected of it fades.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from modelfleet_core.catalog import Pricing
from modelfleet_core.values import NANO, EndpointUrl, VariantKey

MOST_SESSIONS = 10_000
KEPT_FOR = 300.0
"""Mean seconds that a server keeps a prompt: hosted ones say 5 to 10 minutes, and their own ones as long as
memory lasts."""
FORGOTTEN = 3600.0
"""Seconds after which a session is not known any more."""
PREFILL = 0.5
"""Part of the time to the first token that reading the prompt takes; the rest is not saved by a cache."""
STICKY = 0.01
"""Quality that a whole cached prompt counts as besides: among equals a conversation stays where it is."""


@dataclass(frozen=True, slots=True)
class Cached:
    """What is expected to be cached of one request, at one endpoint."""

    variant: VariantKey
    endpoint: EndpointUrl
    tokens: float
    """Of its input."""
    part: float
    """Of its input, 0 to 1."""

    def saved_cost(self, pricing: Pricing) -> float:
        """Return the USD that the request is expected to cost less there."""
        if pricing.cached_femto is None:
            return 0.0
        return self.tokens * (pricing.input_femto - pricing.cached_femto) / (1_000_000 * NANO)

    def saved_seconds(self, first_token: float) -> float:
        """Return the seconds that it is expected to take less, of a time to the first token."""
        return PREFILL * self.part * first_token

    @property
    def lean(self) -> float:
        return STICKY * self.part


@dataclass(frozen=True, slots=True)
class _Visit:
    variant: VariantKey
    endpoint: EndpointUrl
    input_tokens: int
    at: float


class Sessions:
    """Of one sidecar; the one unused for longest is forgotten first. Times are on its clock."""

    def __init__(self) -> None:
        self._visits: OrderedDict[int, _Visit] = OrderedDict()

    def __len__(self) -> int:
        return len(self._visits)

    def went(
        self, caller: str, session: str, variant: VariantKey, endpoint: EndpointUrl, tokens: int, now: float
    ) -> None:
        """A request of `session` with so many input tokens goes to `endpoint`."""
        key = hash((caller, session))
        self._visits[key] = _Visit(variant, endpoint, tokens, now)
        self._visits.move_to_end(key)
        while len(self._visits) > MOST_SESSIONS:
            self._visits.popitem(last=False)

    def cached(self, caller: str, session: str, tokens: int, now: float) -> Cached | None:
        """Return what is expected to be cached of a request with so many input tokens; None: nothing."""
        visit = self._visits.get(hash((caller, session)))
        if visit is None or tokens < 1 or now - visit.at > FORGOTTEN:
            return None
        expected = min(visit.input_tokens, tokens) * math.exp((visit.at - now) / KEPT_FOR)
        return Cached(visit.variant, visit.endpoint, expected, expected / tokens)
