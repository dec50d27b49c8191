"""All policies of an evaluation, played and measured.

In: `Protocol`. Out: `Figures` of each policy by name. Next: `tables` and `result`.
"""

from __future__ import annotations

from collections.abc import Callable

from modelfleet_lab.evaluate import estimators
from modelfleet_lab.evaluate.figures import Figures, measure
from modelfleet_lab.evaluate.protocol import Protocol
from modelfleet_lab.evaluate.sweeps import Sweep, constants, priced
from modelfleet_lab.methods import FloatArray


def evaluate(protocol: Protocol, *, resamples: int, tell: Callable[[str], None]) -> dict[str, Figures]:
    """Return the figures by policy, ours (`default`) first; `tell` is told what is played now."""
    past, test = protocol.past, protocol.test
    found: dict[str, Figures] = {}

    def add(name: str, sweep: Sweep, estimated: FloatArray | None = None) -> None:
        tell(name)
        found[name] = measure(protocol, sweep, estimated=estimated, resamples=resamples)

    default = estimators.ours(past, test)
    add("default", priced(default.quality, default.cost), default.quality)
    add("hull", constants(test.size, len(protocol.data.models)))
    known = estimators.task_mean(past, test, default.cost)
    add("task_mean", priced(known.quality, known.cost), known.quality)
    add("oracle", priced(test.quality, test.cost))
    return found
