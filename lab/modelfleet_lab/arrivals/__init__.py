"""When requests arrive and how long their answers are: real figures, scaled to a run.

In: the shipped excerpt (see `ATTRIBUTION.md`) or a Parquet file with `t_s`, `input_tokens`, `output_tokens`.
Out: `Arrival`s over a duration. Next: `questions` gives each arrival its question, `demo.replay` sends them.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

EXCERPT = "azure_2023_excerpt.csv"
ATTRIBUTION = (
    "Arrivals: excerpt of the Azure LLM inference traces 2023 (conversation and code), CC BY 4.0, "
    "Azure/AzurePublicDataset; Patel et al., Splitwise, ISCA 2024; merged, thinned and compressed in time."
)

KNOWN_TRACES = {
    "azure_llm_2023": "Azure LLM inference traces 2023, CC BY 4.0, Azure/AzurePublicDataset @ b469a11; "
    "Patel et al., Splitwise, ISCA 2024",
    "mooncake": "Mooncake, Apache-2.0, kvcache-ai/Mooncake @ 3b5a594",
}
"""Whose traces are, by the beginning of the file's name."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    at: float
    """Seconds from the start."""
    input_tokens: int
    output_tokens: int
    code: bool = False
    """Whether it was sent to a service that writes code."""


def shipped_arrivals() -> tuple[Arrival, ...]:
    """Return the excerpt that comes with the package: 4,000 arrivals in 400 s."""
    text = resources.files(__package__).joinpath(EXCERPT).read_text(encoding="utf-8")
    return tuple(
        Arrival(
            float(row["t_s"]), int(row["input_tokens"]), int(row["output_tokens"]), row["service"] == "code"
        )
        for row in csv.DictReader(text.splitlines())
    )


def read_trace(path: Path) -> tuple[Arrival, ...]:
    """Return the arrivals of a Parquet file, by time; raise ValueError when it does not hold them."""
    from modelfleet_lab.tables import read_columns  # Heavy, and needed for own traces alone.

    columns = read_columns(path, ("t_s", "input_tokens", "output_tokens"))
    for name, values in columns.items():
        if not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"{path}: column {name!r} is not all numbers")
    rows = sorted(zip(*columns.values(), strict=True))
    return tuple(Arrival(float(at), int(tokens_in), int(tokens_out)) for at, tokens_in, tokens_out in rows)


def attribution(path: Path) -> str:
    """Return whose arrivals the file has, as far as its name tells, and what is changed of them."""
    for beginning, owner in KNOWN_TRACES.items():
        if path.name.startswith(beginning):
            return f"Arrivals: {path.name}: {owner}; thinned and compressed in time."
    return f"Arrivals: {path.name}, thinned and compressed in time."


def scaled(
    trace: Sequence[Arrival], *, count: int, duration: float, seed: int, thin: int = 1
) -> tuple[Arrival, ...]:
    """Return `count` arrivals from a place that `seed` picks, stretched to `duration` seconds.

    Of the trace, every `thin`-th arrival is kept (fewer are left out where it is too short for that), so
    that a short run still spans many bursts. Order and relative gaps stay. Raise ValueError on a short
    trace.
    """
    if count < 1 or len(trace) < count:
        raise ValueError(
            f"the trace has {len(trace)} arrivals, the run needs {count}; lower its rate or duration"
        )
    span = count * min(thin, len(trace) // count)
    first = random.Random(seed).randrange(len(trace) - span + 1)
    part = trace[first : first + span : span // count]
    seconds = part[-1].at - part[0].at
    stretch = duration / seconds if seconds > 0 else 0.0
    return tuple(
        Arrival((a.at - part[0].at) * stretch, a.input_tokens, a.output_tokens, a.code) for a in part
    )
