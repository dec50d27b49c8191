"""What callers give and get: frozen values, with money in whole nano-USD and time in seconds.

In: applications' arguments, and answers that `wire` has read. Out: the same, for `wire` and applications.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypedDict

NANO = 1e-9


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its `url`, which the model server fetches, or its file's bytes as `data`."""

    url: str = ""
    data: bytes = b""
    media_type: str = "image/png"
    """Of `data`."""
    detail: str = ""
    """`auto`, `low` or `high`; empty: not said."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that a model wants called; `arguments` is the JSON text that it wrote."""

    id: str
    name: str
    arguments: str


Part = str | Image | Mapping[str, object]
"""A text, a picture, or any other part as OpenAI's JSON has it."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """system, user, assistant or tool."""
    content: str | Sequence[Part] = ""
    name: str = ""
    tool_calls: Sequence[ToolCall] = ()
    """Of an assistant's message, to be given back with the results."""
    tool_call_id: str = ""
    """Of a tool's message: the call that it is the result of."""
    other: Mapping[str, object] = field(default_factory=dict)
    """Any other field of OpenAI's message."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One request. A text stands for one message of the user."""

    messages: str | Sequence[Message]
    model: str = "auto"
    """`auto` routes; a fleet model's name pins it."""
    max_output_tokens: int | None = None
    """None: the policy's limit."""
    tools: Sequence[Mapping[str, object]] = ()
    """As OpenAI's JSON has them."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Any other field of OpenAI's request: `temperature`, `response_format`, ... Whole numbers above 2**53
    lose digits."""
    tier: str = ""
    task: str = ""
    max_cost_usd: float | None = None
    """The most that the request may cost."""
    min_quality: float | None = None
    """Predicted quality, 0 to 1, below which no answer is wanted."""
    session: str = ""
    """Requests of one session go where their prompts are cached, while that is worth it."""
    exclude: Sequence[str] = ()
    """Models that are not wanted."""
    explain: Literal["", "full", "none"] = ""
    """`none`: the decision's candidates are not kept."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Any other header that the policy reads: of tiers, tenants and rules."""


class Options(TypedDict, total=False):
    """The fields of `Chat` besides its messages, as keyword arguments."""

    model: str
    max_output_tokens: int | None
    tools: Sequence[Mapping[str, object]]
    parameters: Mapping[str, object]
    tier: str
    task: str
    max_cost_usd: float | None
    min_quality: float | None
    session: str
    exclude: Sequence[str]
    explain: Literal["", "full", "none"]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model a request goes to, and why."""

    id: str
    model: str
    variant: str
    served_name: str
    """What the model server expects as the model."""
    endpoint: str
    """Base URL of the leased endpoint, without /v1."""
    tier: str
    task: str
    reason: str
    expected_quality: float
    expected_cost_nano_usd: int
    reserved_nano_usd: int
    max_output_tokens: int
    """A routed call must not ask for more."""
    settle_within: float | None
    """Seconds in which a routed decision must be settled; None: the sidecar does that."""


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Of the input, found in the server's prompt cache."""
    estimated: bool = False
    """The server sent no usage: counted by the sidecar."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    decision: Decision
    text: str
    finish_reason: str
    usage: Usage
    cost_nano_usd: int
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str = ""
    raw: bytes = b""
    """The model server's JSON, as it came."""

    @property
    def model(self) -> str:
        return self.decision.model

    @property
    def cost_usd(self) -> float:
        return self.cost_nano_usd * NANO


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A piece of the answer's tool call number `index`; `id` and `name` come once."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk of a stream says."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    finish_reason: str = ""
    raw: tuple[bytes, ...] = ()
    """JSON of the server's events, where asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one request of a batch found no place."""

    reason: str
    message: str
    retry_after: float | None
    """Seconds; None: it will not be better later."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """No feasible assignment has an objective above `bound`."""

    objective: float
    bound: float
    gap: float
    termination: str
    binding: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of each request of a batch, in order."""

    outcomes: tuple[Decision | Refusal, ...]
    certificate: Certificate | None


class Outcome(Enum):
    """How a routed call ended."""

    OK = "OUTCOME_OK"
    ERROR = "OUTCOME_ERROR"
    CANCELLED = "OUTCOME_CANCELLED"


@dataclass(frozen=True, slots=True)
class Settled:
    cost_nano_usd: int
    repeated: bool
    """It was settled before; nothing was booked again."""
    expired: bool
    """That was because `settle_within` was over: it cost its reserve."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a feedback."""

    score: float
    repeated: bool
    """The decision had its feedback before; nothing was counted again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model as it stood when the decision was taken."""

    model: str
    variant: str
    quality: float
    quality_deviation: float
    cost_nano_usd: int
    service_seconds: float
    value: float
    excluded_by: str
    """Empty: it could be chosen."""
    stopped_by: str
    """What kept the request from it; empty: nothing, it was chosen or is worth less."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An earlier decision on the same request, which failed before there was any content."""

    decision_id: str
    model: str
    variant: str
    failed_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision was taken, and what became of it."""

    decision: Decision
    candidates: tuple[Candidate, ...]
    """Best value first."""
    certificate: Certificate
    batch_size: int
    waited_seconds: float
    confidence: float
    """In the estimates, 0 to 1."""
    rule: str
    """Of the policy's rules the one that matched; empty: none."""
    explored: bool
    failed_by: str
    earlier_attempts: tuple[Attempt, ...]
    cost_nano_usd: int | None
    """None: not settled yet."""
    score: float | None
    """From feedback."""
    usage: Usage | None
    """Of a whole answer, or as settled; None: not known."""
