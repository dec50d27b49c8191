"""A hot tenant in virtual time: what the others get when one of ten sends 50 times its part.

Each seed is played with and without the crowd; what the others send is the same to the bit. Counted are their
requests that arrive once it has begun. The figures are the same on every machine.

    python benchmarks/hot_tenant.py [--seeds 3] [--hot 50] [--json out/hot_tenant.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelfleet_lab.simulate.measures import Served, served
from modelfleet_lab.simulate.play import PRODUCT
from modelfleet_lab.simulate.scenario import SCENARIOS, Scenario
from modelfleet_lab.simulate.workload import WARM_UP, workload
from modelfleet_lab.simulate.world import World

MOST = 0.05


def others(scenario: Scenario) -> Served:
    """Return what all tenants but the first get from when that one may be hot."""
    load = workload(scenario)
    run = World(scenario, load, PRODUCT.decide).run()
    return served(load, run, (load.tenant != 0) & (load.arrived >= WARM_UP + scenario.hot_after))


def changes(scenario: Scenario) -> tuple[float, float]:
    """Return by what parts the others' mean quality and latency change when the first tenant is hot."""
    with_it, without = others(scenario), others(replace(scenario, hot=1.0))
    return with_it.quality / without.quality - 1.0, with_it.latency / without.latency - 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hot", type=float, default=50.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'seed':>4}{'quality':>10}{'latency':>10}")
    for seed in range(1, options.seeds + 1):
        rows.append(changes(replace(SCENARIOS["hot-tenant"], seed=seed, hot=options.hot)))
        print(f"{seed:>4}{rows[-1][0]:>+10.1%}{rows[-1][1]:>+10.1%}", flush=True)
    quality, latency = (statistics.fmean(row[column] for row in rows) for column in (0, 1))
    print(f"mean{quality:>+10.1%}{latency:>+10.1%}")
    figures = {"hot_tenant_quality_change": quality, "hot_tenant_latency_change": latency}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2))
    return 0 if max(abs(quality), abs(latency)) <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())
