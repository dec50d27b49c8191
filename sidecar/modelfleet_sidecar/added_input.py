"""Stage assign, first half: input tokens that a request has with one model and not with another.

In: a `Call` and a model. Out: a bound of the tokens that its images, the model's system prompt and its chat
template add. Next: `prospect` costs them and looks whether they fit.
"""

from __future__ import annotations

from dataclasses import replace

from modelfleet_core.catalog import TEMPLATE_TOKENS, Model
from modelfleet_core.estimation.estimate import Estimate
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.values import NanoUsd, usd

from modelfleet_sidecar.bounds import OUTSIDE_PROMPT, template_tokens
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.upstream_body import takes_system_prompt

_FRAME = 16
"""Tokens that a chat template may add around a message."""


def added_input(call: Call, model: Model) -> int | None:
    """Return a bound of the tokens beside those that each request is taken to have; None: the model does not
    say how many an image has at most."""
    tokens = model.template_tokens - TEMPLATE_TOKENS
    if call.images:
        if model.image_tokens is None:
            return None
        tokens += call.images * model.image_tokens
    request = model.request
    if request.system_prompt and takes_system_prompt(call):
        tokens += len(request.system_prompt.encode()) + _FRAME
    if request.defaults:
        tokens += template_tokens(
            {name: value for name, value in request.defaults.items() if name not in OUTSIDE_PROMPT}
        )
    return tokens


def with_input(
    profile: RequestProfile, estimate: Estimate, model: Model, tokens: int, unseen: int
) -> tuple[RequestProfile, Estimate]:
    """Return both with so many tokens more, and `unseen` ones that are only feared."""
    cost, most = model.pricing.cost(tokens, 0), model.pricing.cost(tokens + unseen, 0)
    return (
        replace(
            profile,
            input_tokens=profile.input_tokens + tokens,
            input_tokens_bound=profile.input_tokens_bound + tokens + unseen,
        ),
        estimate._replace(cost=estimate.cost + usd(cost), reserve=NanoUsd(estimate.reserve + most)),
    )
