"""What was found, as a table for people and as JSON for programs.

In: `Played`. Out: a table, `result.json` and the plots' files. Next: the user.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from modelfleet_lab.simulate.measures import Figures
from modelfleet_lab.simulate.play import CENTRAL, Played

RESULT = "result.json"
SHORTEST = 1e-3
"""Mean wait in seconds below which a ratio to it says nothing."""


def table(played: Played) -> Table:
    """Return a row for each player."""
    found = Table(title=title(played), title_justify="left", caption_justify="left", caption=caption(played))
    found.add_column("who decides")
    for column in ("quality", "mean wait", "p50", "p95", "not answered", "broken limits"):
        found.add_column(column, justify="right")
    for game in played.games:
        row = game.figures
        lost = row.requests - row.answered
        found.add_row(
            game.player.name,
            f"{row.share:.1%}" if played.bound.quality > 0 else "-",
            f"{row.mean_wait:.3f} s",
            f"{row.p50_wait:.2f} s",
            f"{row.p95_wait:.2f} s",
            f"{lost / max(1, row.requests):.2%}",
            str(row.violations),
        )
    return found


def title(played: Played) -> str:
    scenario = played.scenario
    together = "one by one" if scenario.burst == 1 else f"in bursts of {scenario.burst}"
    return (
        f"{len(played.load)} requests {together} at {scenario.sidecars} sidecars,"
        f" {scenario.slots} slots, load {scenario.load:g}; quality as a share of what a clairvoyant"
        " could serve at most"
    )


def caption(played: Played) -> str:
    """Return what the leases took, and the wait against one queue."""
    row = played.games[0].figures
    said = (
        f"{row.name}: {row.reports_per_second:.0f} reports and {row.grants_per_second:.0f} grants/s,"
        f" {row.slots_moved_per_second:.1f} slots moved/s; operator {row.operator_cores:.3f} cores"
        f" ({', '.join(f'{what} {sec / row.seconds:.4f}' for what, sec in row.operator_seconds.items())});"
        f" billed {row.billed_usd:.4f} USD"
    )
    central, ratio = played.game(CENTRAL.name), played.wait_ratio
    if ratio is not None and central is not None and central.figures.mean_wait >= SHORTEST:
        said += f"; mean wait {ratio:.1f} times that of one central queue"
    if played.bound.quality <= 0:
        said += "; nobody can answer a request before its deadline"
    if row.not_answered:
        said += "; not answered: " + ", ".join(f"{why} {count}" for why, count in row.not_answered.items())
    return said


def data(played: Played) -> dict[str, object]:
    """Return what `result.json` holds."""
    return {
        "scenario": played.scenario.data(),
        "requests": len(played.load),
        "bound_quality": played.bound.quality,
        "bound_bucket_seconds": played.bound.bucket,
        "wait_ratio": played.wait_ratio,
        "violations": sum(game.figures.violations for game in played.games),
        "players": [_row(game.figures, game.player.says) for game in played.games],
    }


def _row(figures: Figures, says: str) -> dict[str, object]:
    return {**asdict(figures), "violations": figures.violations, "says": says}


def write(played: Played, folder: Path) -> list[Path]:
    """Write JSON and plots into `folder`, which is made where it is missing; return the files."""
    from modelfleet_lab.simulate import plots  # Heavy: loads matplotlib, which --help must not wait for.

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / RESULT]
    files[0].write_text(json.dumps(data(played), indent=2) + "\n")
    for name, draw in plots.PLOTS.items():
        path = folder / f"{name}.png"
        path.write_bytes(draw(played))
        files.append(path)
    return files
