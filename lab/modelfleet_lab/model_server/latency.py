"""How long a simulated server takes, by load.

In: an idle server's latency and the requests it runs. Out: seconds to the first token and per further
token. The growth with load follows medians over the measured profiles of aiconfigurator (Apache-2.0,
ai-dynamo/aiconfigurator, 1,024 tokens in and out): against 4 requests at once, the time per token was
1.15, 1.42, 1.76, 2.26, 2.81 times as long at 8, 16, 32, 64, 128, and the time to the first token 1.10,
1.37, 1.82, 2.53, 3.65 times. `1 + a (n - 1)^b` with the constants below stays within 8 % of both.
Next: `serving` sleeps that long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

PER_TOKEN_GROWTH, PER_TOKEN_POWER = 0.14, 0.6
FIRST_TOKEN_GROWTH, FIRST_TOKEN_POWER = 0.10, 0.72


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """Latency of an idle server, in milliseconds as the measured profiles have it."""

    ttft: float = 200.0
    """To the first token."""
    per_token: float = 15.0
    """For each further token."""
    prefill: float = 0.0
    """Added to `ttft` for each input token."""
    load: float = 1.0
    """Strength of the growth with load; 0: the server is as fast full as idle."""

    def first_token(self, running: int, input_tokens: int) -> float:
        """Return the seconds to the first token when `running` requests (this one too) run."""
        growth = 1.0 + self.load * FIRST_TOKEN_GROWTH * math.pow(max(0, running - 1), FIRST_TOKEN_POWER)
        return (self.ttft + self.prefill * input_tokens) * growth / 1e3

    def next_token(self, running: int) -> float:
        """Return the seconds of each further token when `running` requests (this one too) run."""
        growth = 1.0 + self.load * PER_TOKEN_GROWTH * math.pow(max(0, running - 1), PER_TOKEN_POWER)
        return self.per_token * growth / 1e3


def parse_latency(text: str) -> LatencyProfile:
    """Return the profile written as `ttft=200,per_token=15,prefill=0,load=1`; raise ValueError."""
    known = [field.name for field in fields(LatencyProfile)]
    values: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, equals, number = part.partition("=")
        if not equals or name not in known:
            raise ValueError(f"latency {part!r} is none of {', '.join(known)}; write ttft=200,per_token=15")
        values[name] = float(number)
        if values[name] < 0:
            raise ValueError(f"latency {part!r} is negative; write milliseconds of at least 0")
    return LatencyProfile(**values)
