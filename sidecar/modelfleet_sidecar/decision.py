"""Stage assign, its values in the sidecar: what is asked, and what was decided.

In: `Ask` from the API modules through `router`. Out: `Decision` (forward, settle) and `Considered` (explain).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np
from modelfleet_core.assignment.problem import FloatArray
from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.catalog import Pricing, RequestMapping, SecretKey
from modelfleet_core.estimation.embedding import Likeness
from modelfleet_core.estimation.profile import Reading
from modelfleet_core.estimation.signs import Signs
from modelfleet_core.estimation.subject import Subject, subject
from modelfleet_core.estimation.urgency import Urgency
from modelfleet_core.policy import Tier
from modelfleet_core.records import record
from modelfleet_core.rules import Matched
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, TaskName, VariantKey

from modelfleet_sidecar.calls import Call


class Reason(Enum):
    """Why a model was chosen."""

    BEST_VALUE = "BestValue"
    PINNED = "Pinned"
    """The caller named the model."""
    ONLY_ELIGIBLE = "OnlyEligible"
    LOW_CONFIDENCE = "LowConfidence"
    """Estimates were not trusted, so the rule's models, or the policy's default model, were taken."""
    EXPLORED = "Explored"
    """By chance, among those worth nearly as much as the best, so that feedback tells of it."""
    BUDGET_BINDS = "BudgetBinds"
    """A better one was too dear for the money left."""
    SLOTS_BIND = "SlotsBind"
    """A better one had no free slot, or others in the batch gained more from it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier decision on a request, which failed before the caller had any byte of an answer."""

    decision_id: str
    variant: VariantKey
    endpoint: EndpointUrl
    failure: str
    """Its reason."""


@record
class Ask:
    """One request to decide on. Times are on the sidecar's clock."""

    call: Call
    """With what the rule sets."""
    reading: Reading
    tier: Tier
    task: TaskName | None
    """As the caller or the rule named it; None: found from the text."""
    arrived: float
    deadline: float
    """The caller's, at most the policy's longest request from `arrived`."""
    tenant: str | None = None
    """The declared tenant that its headers name."""
    matched: Matched | None = None
    """The policy's rule for it; None: none."""
    urgency: tuple[Urgency, str] = (Urgency.UNKNOWN, "no sign")
    """Whether someone waits for the answer, and what says so."""
    group: str = ""
    """The declared group of callers, by which routing is compared; empty: none of them."""
    features: FloatArray | None = None
    """Of its text, made once; None: nothing asks for them."""
    judging: bool = False
    """It is the judge's and no user's: on the judge's account, and nothing is learned from it."""
    routed: bool = False
    """The caller sends the request itself and settles later; otherwise the sidecar forwards it."""
    earlier: tuple[Attempt, ...] = ()
    """Attempts that failed, oldest first."""
    avoided: frozenset[EndpointUrl] = frozenset()
    """Where not to send it again (`Candidate.avoided`)."""
    max_cost: NanoUsd | None = None
    """The most that it may cost by its upper bound, as its caller says; None: whatever the budget allows."""
    min_quality: float = 0.0
    """Predicted quality below which its caller wants no answer."""
    exclude: frozenset[ModelName] = frozenset()
    """Models that its caller does not want."""
    session: str = ""
    """Requests of one session go where their prompts are cached, while that is worth it; empty: none."""
    caller: str = ""
    """The tenant header's value, declared or not, by which a sidecar shares fairly; empty: none."""
    explained: bool = True
    """Whether the candidates are kept for `Explain`, and headers tell of the decision."""
    passed: Mapping[str, str] = field(default_factory=dict)
    """Headers that go along to the model server."""


@dataclass(frozen=True, slots=True)
class About:
    """What the profile told of one request; nothing of its text."""

    seen: Signs
    """Counts of what was seen in the text."""
    difficulty: float
    """0 (plain) to 1 (hard)."""
    output_tokens: float
    """Expected by it."""
    urgency: Urgency
    urgent_by: str
    matched_by: tuple[str, ...]
    """The conditions of the rule that held."""

    @property
    def subject(self) -> Subject:
        """What the text is about, found out for who asks: most decisions nobody asks about."""
        return subject(self.seen)

    @property
    def signs(self) -> list[str]:
        """What decided, in words."""
        return [*self.subject.signs, f"urgency {self.urgency.value}: {self.urgent_by}"]


@record
class Considered:
    """What the program saw of one request: one entry per variant of the fleet."""

    variants: tuple[VariantKey, ...]
    kept: array[float]
    """(9 m,) `figures` and then `evidence`, row by row: it is made for every decision, and seldom read."""
    money_price: float
    """Quality per USD: value = weight * quality - slot price * service seconds - money price * cost."""
    excluded_by: tuple[str, ...]
    """(m,) why a variant could not be chosen; empty: it could."""
    stopped_by: tuple[str, ...]
    """(m,) what kept the request from the variant: the above, or the limit of the batch of which others
    took the rest; empty: nothing, it is the one chosen or worth less."""

    @property
    def figures(self) -> FloatArray:
        """(6, m): quality, cost in USD, service seconds, slot price, value, and what it would have paid
        besides for limits of its batch."""
        return self._rows[:6]

    @property
    def evidence(self) -> FloatArray:
        """(3, m): the quality's standard deviation as an estimate, scored answers behind it, and answers
        behind the service seconds."""
        return self._rows[6:]

    @property
    def _rows(self) -> FloatArray:
        return np.array(self.kept).reshape(9, len(self.variants))


NOTHING_KEPT = Considered((), array("d"), 0.0, (), ())
"""Of a request whose caller wants nothing explained."""


class Grounds(NamedTuple):
    """What a choice rests on besides prices, for explanations and for what is learned of it later."""

    confidence: float
    """In the estimates, 0 to 1."""
    estimator_version: str
    learned_version: str
    base: float
    """The chosen model's quality as estimated without what was learned."""
    likeness: Likeness | None
    learns: bool
    """Whether the policy has answers counted and feedback taught."""
    explored: bool
    group: str
    load: float
    """Share of the variant's slots that this sidecar used when it was chosen."""
    asked_as: int
    """Hash of what was asked, with a key of this process."""


@record
class Decision:
    """One request's model, endpoint, slot and reserved money; held until it is settled."""

    id: str
    reservation: int
    """Of the lease's `Holding`."""
    variant: VariantKey
    served_name: str
    endpoint: EndpointUrl
    """Where the model server is asked."""
    slot: EndpointUrl
    """What its slot is counted by (`Reservation.endpoint`)."""
    tier: str
    task: str
    rule: str
    """Of the policy's rules the one that matched; empty: none."""
    about: About
    reason: Reason
    quality: float
    expected_cost: NanoUsd
    reserved: NanoUsd
    pricing: Pricing
    max_output_tokens: int
    """Per choice; enforced upstream, so that `reserved` is a bound."""
    input_tokens: int
    """Expected; counts as usage where the server sends none."""
    prompt_bound: int | None
    """No server counts more input tokens, but for what the model's chat template adds; None: nobody knows."""
    template_tokens: int
    """What that is taken to add at most; `reserved` is for both."""
    usual_first_token: float
    """Seconds that the variant is expected to take to it."""
    usual_longest: float
    """The same to a whole answer of `max_output_tokens`."""
    settle_within: float | None
    """Seconds after which it settles at its reserve by itself; None: the sidecar forwards and settles it."""
    considered: Considered
    grounds: Grounds
    certificate: Certificate
    batch_size: int
    waited: float
    """Seconds since the request arrived: in the window, in the queue and in earlier attempts."""
    earlier: tuple[Attempt, ...] = ()
    """Attempts at the same request that failed, oldest first."""
    api_key: SecretKey | None = None
    """What the endpoint asks for; None: no key."""
    certified: str = ""
    """Name that the certificate of a pod must be for: its Service's, as its address is nobody's for long;
    empty: the endpoint's host."""
    changes: RequestMapping = field(default_factory=RequestMapping)
    """What the model needs to have changed in the request."""
    explained: bool = True
    """As its caller wants it (`Ask.explained`); if not, nothing is in `considered`."""
    passed: Mapping[str, str] = field(default_factory=dict)
    """Headers that go along to the model server."""
