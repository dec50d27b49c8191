"""Stage learn, the edge: what an application says of an answer becomes a `Feedback`, or one `Failure`.

In: JSON text (HTTP) or the fields of a message (gRPC). Out: `Feedback`. Next: `router` counts it once per
decision.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelfleet_sidecar.failures import Failure, Fault, bad_field

MAX_COMMENT = 2_000
"""Characters."""
MAX_ID = 200
MAX_RATING = 5
LABELS: Mapping[str, float] = {
    **dict.fromkeys(("good", "up", "correct", "right", "yes", "accepted", "thumbs_up", "like"), 1.0),
    **dict.fromkeys(("ok", "partial", "mixed", "neutral"), 0.5),
    **dict.fromkeys(("bad", "down", "incorrect", "wrong", "no", "rejected", "thumbs_down", "dislike"), 0.0),
}
"""Scores of the labels that are understood, in any case."""
FIELDS = ("decision_id", "score", "rating", "label", "comment")


class Source(Enum):
    """How a score was said."""

    SCORE = "score"
    RATING = "rating"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Feedback:
    decision_id: str
    """Of a decision, or the id of an answer."""
    score: float
    """In [0, 1]."""
    source: Source
    comment: str = ""
    """For those who explain the decision in this pod; never sent, never logged."""


def parse_feedback(body: bytes) -> Feedback:
    """Parse the JSON text of a request. Raises Failure."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Failure(Fault.BAD_REQUEST, "MalformedJson", "the body is not JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise Failure(Fault.BAD_REQUEST, "InvalidField", "the body must be a JSON object")
    said = {name: field for name, field in value.items() if field is not None}
    for name in said:
        if name not in FIELDS:
            raise bad_field(str(name)[:100], f"is not known; there are {', '.join(FIELDS)}")
    verdicts = [source for source in Source if source.value in said]
    if len(verdicts) != 1:
        raise _no_verdict(len(verdicts))
    return feedback(
        _text(said.get("decision_id", ""), "decision_id"),
        verdicts[0],
        said[verdicts[0].value],
        _text(said.get("comment", ""), "comment"),
    )


def feedback(decision_id: str, source: Source | None, said: object, comment: str) -> Feedback:
    """Check what was `said` of a decision. Raises Failure."""
    if not decision_id:
        raise bad_field("decision_id", "is missing; send the value of the header x-modelfleet-decision-id")
    if len(decision_id) > MAX_ID:
        raise bad_field("decision_id", f"is over {MAX_ID} characters")
    if source is None:
        raise _no_verdict(0)
    if len(comment) > MAX_COMMENT:
        raise bad_field("comment", f"has {len(comment)} characters; send at most {MAX_COMMENT}")
    return Feedback(decision_id, _score(source, said), source, comment)


def _score(source: Source, said: object) -> float:
    match source:
        case Source.SCORE:
            score = _number(said, "score")
            if not 0.0 <= score <= 1.0:
                raise bad_field("score", "must be a number from 0 (useless) to 1 (right)")
            return score
        case Source.RATING:
            rating = _number(said, "rating")
            if not 1.0 <= rating <= MAX_RATING or rating != int(rating):
                raise bad_field("rating", f"must be a whole number from 1 to {MAX_RATING}")
            return (rating - 1.0) / (MAX_RATING - 1.0)
        case Source.LABEL:
            score_of = LABELS.get(_text(said, "label").strip().lower())
            if score_of is None:
                raise bad_field("label", f"is not known; there are {', '.join(LABELS)}")
            return score_of


def _number(said: object, name: str) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise bad_field(name, "must be a number")
    try:
        number = float(said)
    except OverflowError:
        number = math.inf
    return number


def _text(said: object, name: str) -> str:
    if not isinstance(said, str):
        raise bad_field(name, "must be a string")
    return said


def _no_verdict(given: int) -> Failure:
    problem = "are given together" if given else "is missing"
    return Failure(
        Fault.BAD_REQUEST,
        "InvalidField",
        f"one of score (0 to 1), rating (1 to {MAX_RATING}) and label {problem}; send exactly one",
        field="score",
    )
