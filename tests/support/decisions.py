"""Decisions as they are once taken, for what remembers them."""

from __future__ import annotations

from array import array

import numpy as np
from modelfleet_core.assignment.result import Termination
from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.catalog import Pricing
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, VariantKey
from modelfleet_sidecar.decision import Considered, Decision, Reason

from support.sidecars import ABOUT, GROUNDS

VARIANTS = tuple(VariantKey(ModelName(name), "gpu") for name in ("a", "b", "c"))


def decision(number: int) -> Decision:
    """Return a decision for the last of three variants, of which the second had no free slot."""
    figures = np.array(
        [[0.5, 0.9, 0.7], [1, 2, 3], [0.1, 0.2, 0.3], [0, 0, 0], [0.5, 0.9, 0.7], [0, 0.3, 0]],
        dtype=np.float64,
    )
    return Decision(
        id=f"d-{number}",
        reservation=number,
        variant=VARIANTS[2],
        served_name="c",
        endpoint=EndpointUrl("http://127.0.0.1:1"),
        slot=EndpointUrl("http://127.0.0.1:1"),
        tier="bronze",
        task="chat",
        rule="",
        about=ABOUT,
        reason=Reason.SLOTS_BIND,
        quality=0.7,
        expected_cost=NanoUsd(1),
        reserved=NanoUsd(2),
        pricing=Pricing(1, 1),
        max_output_tokens=10,
        input_tokens=5,
        prompt_bound=40,
        template_tokens=96,
        usual_first_token=0.1,
        usual_longest=1.0,
        settle_within=None,
        considered=Considered(
            VARIANTS,
            array("d", [*figures.ravel().tolist(), *[0.0] * 9]),
            0.0,
            ("", "NoFreeSlot", ""),
            ("", "NoFreeSlot", ""),
        ),
        grounds=GROUNDS,
        certificate=Certificate(0.7, 0.7, 0.0, Termination.OPTIMAL, (), 0.001),
        batch_size=1,
        waited=0.0,
    )
