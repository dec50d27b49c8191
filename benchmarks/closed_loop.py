"""Closed loop in virtual time: quality against the clairvoyant's bound, waits against one central queue.

Every row is one scenario of `modelfleet simulate` at load .85, service of about 5 s, drifting skew: 50
sidecars on 100 slots and 200 on 32; single arrivals, bursts of 20 and of 50, each at one sidecar. Beside the
product play one central queue with the same prices and windows, and greedy, prices alone and batch alone
over the same leases. Qualities and waits are the same on every machine; CPU figures depend on it.

Runs are long because the clairvoyant leaves work for the empty seconds after the last arrival: the same
decisions on 50 x 100 reach 95 % of the bound of a run of 120 s and 96.5 % of that of 300 s.

    python benchmarks/closed_loop.py --json out/closed_loop.json [--quick] [--seconds 300] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelfleet_lab.simulate.play import CENTRAL, PRODUCT, RIVALS, Played, play
from modelfleet_lab.simulate.scenario import FAULTS, SCENARIOS, Scenario

SIZES = {"50x100": Scenario(), "200x32": Scenario(sidecars=200, slots=32)}
ARRIVALS = {"single": 1, "bursts20": 20, "bursts50": 50}
REQUIRED = {"single": 0.95, "bursts20": 0.90, "bursts50": 0.85}
MOST_WAIT = 3.0


def shares(played: Sequence[Played], name: str) -> float:
    """Return the mean share of the bound over seeds."""
    return statistics.fmean(game.figures.share for p in played if (game := p.game(name)) is not None)


def waits(played: Sequence[Played], name: str) -> float:
    return statistics.fmean(game.figures.mean_wait for p in played if (game := p.game(name)) is not None)


def broken(played: Sequence[Played]) -> int:
    return sum(game.figures.violations for p in played for game in p.games)


def closed_loops(seconds: float, seeds: Sequence[int]) -> dict[str, float]:
    """Play every size with all arrivals, print a row for each and return the flat figures."""
    rows: dict[str, float] = {}
    violations = 0
    print(f"{'':<18}{'product':>9}{'central':>9}" + "".join(f"{rival.name:>14}" for rival in RIVALS), end="")
    print(f"{'wait':>9}{'central':>9}{'ratio':>7}  required")
    for size, base in SIZES.items():
        for kind, burst in ARRIVALS.items():
            scenario = replace(base, burst=burst, duration=seconds)
            played = [play(replace(scenario, seed=s), (PRODUCT, CENTRAL, *RIVALS)) for s in seeds]
            share, central = shares(played, PRODUCT.name), shares(played, CENTRAL.name)
            rivals = {rival.name: shares(played, rival.name) for rival in RIVALS}
            wait, least = waits(played, PRODUCT.name), waits(played, CENTRAL.name)
            key = f"closed_loop_{size}_{kind}"
            rows |= {
                f"{key}_share": share,
                f"{key}_central_share": central,
                f"{key}_above_best_rival": share - max(rivals.values()),
                f"{key}_wait_s": wait,
                f"{key}_wait_ratio": wait / max(1e-9, least),
            }
            rows |= {f"{key}_{name.replace(' ', '_')}_share": value for name, value in rivals.items()}
            violations += broken(played)
            met = share >= REQUIRED[kind] and share >= max(rivals.values()) and wait <= MOST_WAIT * least
            print(f"{size + ' ' + kind:<18}{share:>9.2%}{central:>9.2%}", end="")
            print("".join(f"{value:>14.2%}" for value in rivals.values()), end="")
            print(f"{wait:>7.3f} s{least:>7.3f} s{wait / max(1e-9, least):>7.2f}", end="")
            print(f"  >= {REQUIRED[kind]:.0%}, <= {MOST_WAIT:g}: {'met' if met else 'missed'}", flush=True)
    return rows | {"closed_loop_violations": violations}


def many_sidecars(quick: bool) -> dict[str, float]:
    """Play 2,000 sidecars at steady demand; return the operator's CPU time per second."""
    scenario = replace(SCENARIOS["many"], duration=15.0 if quick else 60.0, drift=0.0)
    played = play(scenario, (PRODUCT,))
    row = played.games[0].figures
    print(
        f"{scenario.sidecars} sidecars, {scenario.slots} slots: operator {row.steady_cores:.3f} cores at"
        f" {row.reports_per_second:.0f} reports/s and {row.grants_per_second:.0f} grants/s,"
        f" {row.pairs_per_cpu_second:.0f} report-grant pairs per CPU-second of the lease book",
        flush=True,
    )
    return {
        "closed_loop_2000_operator_cores": row.steady_cores,
        "closed_loop_2000_reports_per_s": row.reports_per_second,
        "closed_loop_2000_share": row.share,
        "closed_loop_pairs_per_cpu_s_core": row.pairs_per_cpu_second,
        "closed_loop_2000_violations": row.violations,
    }


def faults(seconds: float, seeds: Sequence[int]) -> dict[str, float]:
    """Play all faults with a budget that binds; return the limits broken at the servers: must be 0."""
    violations, overspent, lost, requests = 0, 0, 0, 0
    base = Scenario(sidecars=20, slots=40, duration=seconds, faults=FAULTS["all"])
    scenarios = (base, replace(base, budget=0.1), replace(base, burst=20, sidecars=60, slots=24, budget=0.1))
    for scenario in scenarios:
        for seed in seeds:
            row = play(replace(scenario, seed=seed), (PRODUCT,)).games[0].figures
            violations += row.violations
            overspent += row.overspent
            requests += row.requests
            lost += row.requests - row.answered
    print(
        f"all faults, with and without a budget: {requests} requests, {lost / requests:.1%} not answered,"
        f" {violations} limits broken, {overspent} nano-USD overspent",
        flush=True,
    )
    return {
        "closed_loop_faults_violations": violations,
        "closed_loop_faults_overspent_nano_usd": overspent,
        "closed_loop_faults_not_answered": lost / requests,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=Path("out/closed_loop.json"), metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="shorter runs and one seed: a look, no figures")
    parser.add_argument("--seconds", type=float, default=300.0, help="of arrivals in each row (default 300)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each row (default 1)")
    options = parser.parse_args()
    seconds, seeds = (40.0, [1]) if options.quick else (options.seconds, range(1, options.seeds + 1))
    rows = closed_loops(seconds, list(seeds))
    rows |= many_sidecars(options.quick)
    rows |= faults(min(seconds, 90.0), list(seeds))
    rows["violations"] = sum(value for key, value in rows.items() if key.endswith("violations"))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"written to {options.json}")
    return 1 if rows["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
