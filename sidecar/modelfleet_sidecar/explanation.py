"""Stage assign, in JSON: what a decision rests on, for `GET /v1/decisions/ID` and for the answer's header.

In: a decision of `explain`'s memory, or one that was just taken. Out: JSON values. Next: `http_api`.
"""

from __future__ import annotations

import json

from modelfleet_core.values import usd

from modelfleet_sidecar.decision import About, Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.explain import Entry, options

LONGEST = 4096
"""Bytes of the header."""


def explanation(entry: Entry) -> dict[str, object]:
    """Return all that is known of a decision."""
    decision = entry.decision
    certificate = decision.certificate
    return {
        "id": decision.id,
        "model": decision.variant.model,
        "variant": decision.variant.variant,
        "endpoint": decision.endpoint,
        "tier": decision.tier,
        "task": decision.task,
        "rule": decision.rule,
        "rule_matched_by": list(decision.about.matched_by),
        "profile": _profile(decision.about),
        "reason": decision.reason.value,
        "expected_quality": decision.quality,
        "expected_cost_usd": usd(decision.expected_cost),
        "reserved_usd": usd(decision.reserved),
        "cost_usd": None if entry.cost is None else usd(entry.cost),
        "usage": None if entry.usage is None else _usage(entry.usage),
        "failed_by": entry.failure,
        "confidence": decision.grounds.confidence,
        "estimator_version": decision.grounds.estimator_version,
        "learned_version": decision.grounds.learned_version,
        "explored": decision.grounds.explored,
        "score": None if entry.feedback is None else entry.feedback.score,
        "comment": None if entry.feedback is None else entry.feedback.comment or None,
        "earlier_attempts": [
            {
                "decision_id": attempt.decision_id,
                "model": attempt.variant.model,
                "variant": attempt.variant.variant,
                "endpoint": attempt.endpoint,
                "failed_by": attempt.failure,
            }
            for attempt in decision.earlier
        ],
        "max_output_tokens": decision.max_output_tokens,
        "waited_seconds": decision.waited,
        "money_price": decision.considered.money_price,
        "batch_size": decision.batch_size,
        "certificate": {
            "objective": certificate.objective,
            "bound": certificate.bound,
            "gap": certificate.gap,
            "termination": certificate.termination.value,
            "binding": list(certificate.binding),
            "seconds": certificate.seconds,
        },
        "candidates": [
            {
                "model": option.variant.model,
                "variant": option.variant.variant,
                "quality": option.quality,
                "cost_usd": option.cost,
                "service_seconds": option.service_time,
                "slot_price": option.slot_price,
                "value": option.value,
                "batch_price": option.batch_price,
                "excluded_by": option.excluded_by,
                "stopped_by": option.stopped_by,
                "quality_deviation": option.deviation,
                "samples": option.samples,
                "service_samples": option.service_samples,
            }
            for option in options(decision)
        ],
    }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "estimated": usage.estimated,
    }


def _profile(about: About) -> dict[str, object]:
    subject = about.subject
    return {
        "script": subject.script,
        "language": subject.language,
        "domain": subject.domain,
        "style": subject.style.value,
        "urgency": about.urgency.value,
        "difficulty": about.difficulty,
        "output_tokens": about.output_tokens,
        "signs": about.signs,
    }


def compact(decision: Decision) -> str:
    """Return the candidates of a decision as JSON in ASCII, the best first, of at most `LONGEST` bytes.

    Where they are too long the last ones are left out, and `omitted` counts them.
    """
    parts: list[str] = []
    listed = options(decision)
    left = LONGEST - 128
    for option in listed:
        fields = {
            "model": option.variant.model,
            "variant": option.variant.variant,
            "quality": round(option.quality, 4),
            "cost_usd": round(option.cost, 9),
            "seconds": round(option.service_time, 4),
            "value": round(option.value, 6),
            "stopped_by": option.stopped_by or option.excluded_by,
        }
        text = json.dumps(fields, separators=(",", ":"))
        if len(text) >= left:
            break
        left -= len(text) + 1
        parts.append(text)
    price = round(decision.considered.money_price, 6)
    omitted = len(listed) - len(parts)
    return f'{{"candidates":[{",".join(parts)}],"omitted":{omitted},"money_price":{json.dumps(price)}}}'
