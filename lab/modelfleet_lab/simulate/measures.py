"""What a run was worth: the figures of the report.

In: a `Run`, its `Workload` and the clairvoyant `Bound`. Out: `Figures`. Next: `report`, `plots`, benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_lab.simulate.bound import Bound
from modelfleet_lab.simulate.workload import WARM_UP, Floats, Workload
from modelfleet_lab.simulate.world import Run

STEADY = WARM_UP + 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One run in numbers; seconds and shares."""

    name: str
    requests: int
    answered: int
    quality: float
    """Weighted quality of the whole answers."""
    share: float
    """Of the bound."""
    mean_wait: float
    """From arrival to the start, of those that started."""
    p50_wait: float
    p95_wait: float
    not_answered: Mapping[str, int]
    """Requests without a whole answer, by reason."""
    reports_per_second: float
    grants_per_second: float
    pairs: int
    """A report and a grant are a pair; the fewer of both counts."""
    streams_broken: int
    slots_moved_per_second: float
    """Slots that sidecars gained by grants."""
    operator_cores: float
    """CPU time in the operator's core per second of the run."""
    steady_cores: float
    """The same from `STEADY` on while requests arrive: without the start of all sidecars at once."""
    operator_seconds: Mapping[str, float]
    pairs_per_cpu_second: float
    overloaded: int
    """Arrivals that found their replica's slots all taken, counted there (G2)."""
    overspent: int
    """Nano-USD billed beyond the budget (G3)."""
    ended_twice: int
    """Requests that ended more than once (G7)."""
    hung: int
    """Requests that never ended."""
    billed_usd: float
    seconds: float

    @property
    def violations(self) -> int:
        """Return limits broken, each way counted once per case."""
        return self.overloaded + (self.overspent > 0) + self.ended_twice + self.hung


def steady(load: Workload, run: Run) -> float:
    """Return the operator's cores once its sidecars have found it, up to the last arrival."""
    last = float(load.arrived.max()) if len(load) else 0.0
    samples = [sample for sample in run.fates.samples if STEADY <= sample.at <= last]
    if len(samples) < 2:
        return run.cpu.total / max(1e-9, run.seconds)
    return (samples[-1].cpu - samples[0].cpu) / (samples[-1].at - samples[0].at)


def worth(load: Workload, run: Run) -> Floats:
    """Return (n,) the weighted quality that each request got."""
    fates = run.fates
    column = np.maximum(fates.model, 0)
    quality = load.quality[np.arange(len(load)), column]
    result: Floats = load.weight * quality * fates.whole
    return result


@dataclass(frozen=True, slots=True)
class Served:
    """What some requests got."""

    requests: int
    quality: float
    """Mean, 0 for what was not answered."""
    latency: float
    """Mean seconds from arrival to the end, of what was answered."""
    answered: float
    """Part of them."""


def served(load: Workload, run: Run, which: npt.NDArray[np.bool_]) -> Served:
    """Return what the requests of the mask `which` (n,) got, as means that do not look at weights."""
    fates = run.fates
    quality = np.where(fates.whole, load.quality[np.arange(len(load)), np.maximum(fates.model, 0)], 0.0)
    whole = which & fates.whole
    return Served(
        requests=int(which.sum()),
        quality=float(quality[which].mean()) if which.any() else 0.0,
        latency=float((fates.ended - load.arrived)[whole].mean()) if whole.any() else 0.0,
        answered=float(fates.whole[which].mean()) if which.any() else 0.0,
    )


def figures(name: str, load: Workload, run: Run, bound: Bound) -> Figures:
    fates = run.fates
    started = ~np.isnan(fates.started)
    waits = (fates.started - load.arrived)[started]
    waits = waits if len(waits) else np.zeros(1)
    quality = float(worth(load, run).sum())
    seconds = max(1e-9, run.seconds)
    pairs = min(run.traffic.reports, run.traffic.grants)
    cpu = run.cpu.total
    leases = sum(spent for what, spent in run.cpu.seconds.items() if what in ("hear", "turn"))
    return Figures(
        name=name,
        requests=len(load),
        answered=int(fates.whole.sum()),
        quality=quality,
        share=quality / bound.quality if bound.quality > 0 else 1.0,
        mean_wait=float(waits.mean()),
        p50_wait=float(np.quantile(waits, 0.5)),
        p95_wait=float(np.quantile(waits, 0.95)),
        not_answered={why: count for why, count in sorted(fates.reasons.items()) if why != "Answered"},
        reports_per_second=run.traffic.reports / seconds,
        grants_per_second=run.traffic.grants / seconds,
        pairs=pairs,
        streams_broken=run.traffic.broken,
        slots_moved_per_second=fates.slots_moved / seconds,
        operator_cores=cpu / seconds,
        steady_cores=steady(load, run),
        operator_seconds=dict(run.cpu.seconds),
        pairs_per_cpu_second=pairs / leases if leases > 0 else 0.0,
        overloaded=run.overloaded,
        overspent=max(0, run.billed - run.budget) if run.budget is not None else 0,
        ended_twice=fates.repeated,
        hung=fates.open,
        billed_usd=run.billed / 1e9,
        seconds=run.seconds,
    )
