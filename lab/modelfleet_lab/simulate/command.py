"""`modelfleet simulate`: the cores of operator and sidecars over a fleet that exists only in virtual time.

In: the command line. Out: a table, and plots and JSON in a folder. Next: `play`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from modelfleet_lab.command_line import CommandError, Parsers, positive, writable
from modelfleet_lab.simulate import report
from modelfleet_lab.simulate.bound import BoundError
from modelfleet_lab.simulate.play import CENTRAL, PLAYERS, PRODUCT, RIVALS, Played, Player, named, play
from modelfleet_lab.simulate.scenario import FAULTS, SCENARIOS, Scenario, check, scenario_from
from modelfleet_lab.simulate.workload import WARM_UP

EXAMPLES = f"""examples:
  modelfleet simulate                                    50 sidecars, 100 slots, single arrivals
  modelfleet simulate --sidecars 200 --slots 32 --arrivals burst:20
  modelfleet simulate --scenario scarce --faults all --seed 7 -o out/faults
  modelfleet simulate --scenario my.json --players modelfleet,"central queue"

scenarios: {", ".join(SCENARIOS)}; or a JSON file with the fields of `scenario` in any result.json.
players: {", ".join(PLAYERS)}.

Quality is what was served as a share of the clairvoyant bound, which knows all arrivals beforehand; the
central queue decides as modelfleet does, with all slots in one place and no messages. Limits are counted at
the simulated servers. The same options and seed give the same run; only CPU times differ. Options that are
not given are the scenario's; the default scenario is {next(iter(SCENARIOS))}.
"""
DEFAULT_PLAYERS: Sequence[Player] = (PRODUCT, CENTRAL, *RIVALS)


def add(commands: Parsers[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "simulate",
        help="a fleet in virtual time: quality, waits, messages and limits under load and faults",
        description="Plays traffic through the cores of operator and sidecars in virtual time.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", default="roomy", metavar="NAME|FILE", help="what to start from")
    parser.add_argument("--sidecars", type=int, metavar="N", help="each with a stream of its own")
    parser.add_argument("--slots", type=int, metavar="N", help="of all replicas together, 4 or more")
    parser.add_argument(
        "--load",
        type=positive,
        metavar="PART",
        help="work that arrives, as a part of what the slots can do; above 1 queues grow",
    )
    parser.add_argument("--arrivals", type=_burst, metavar="single|burst:N", help="N at once at one sidecar")
    parser.add_argument("--duration", type=positive, metavar="SECONDS", help="of the traffic")
    parser.add_argument("--deadline", type=positive, metavar="SECONDS", help="of each request")
    parser.add_argument(
        "--budget", type=positive, metavar="PART", help="of what the best models would cost: 0.12 is 12 %%"
    )
    parser.add_argument("--seed", type=int, help="of traffic and faults, 0 or more")
    parser.add_argument("--faults", choices=sorted(FAULTS), help="what goes wrong")
    parser.add_argument(
        "--players",
        type=_players,
        default=DEFAULT_PLAYERS,
        metavar="NAMES",
        help="who plays, with commas between them",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/simulate"),
        metavar="DIR",
        help="for result.json and plots (default out/simulate)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> int:
    """Play, print the table and write the files; status 1 where a limit was broken."""
    scenario = scenario_for(options)
    check(scenario)
    writable(options.output / report.RESULT)
    try:
        played = _with_progress(scenario, options.players, console)
    except BoundError as error:
        raise CommandError(str(error)) from error
    console.print(report.table(played))
    files = report.write(played, options.output)
    console.print(f"written to {', '.join(map(str, files))}", markup=False, highlight=False)
    broken = played.games[0].figures.violations
    if broken:
        raise CommandError(
            f"{broken} limits were broken; repeat it with --seed {scenario.seed} and report it as a bug"
        )
    return 0


def scenario_for(options: argparse.Namespace) -> Scenario:
    """Return the named or stored scenario with the options' changes. Raises ValueError."""
    known = SCENARIOS.get(options.scenario)
    scenario = known if known is not None else scenario_from(Path(options.scenario))
    given = {
        name: value
        for name in ("sidecars", "slots", "load", "duration", "deadline", "budget", "seed")
        if (value := getattr(options, name)) is not None
    }
    if options.arrivals is not None:
        given["burst"] = options.arrivals
    if options.faults is not None:
        given["faults"] = FAULTS[options.faults]
    return replace(scenario, **given)


def _with_progress(scenario: Scenario, players: Sequence[Player], console: Console) -> Played:
    if not console.is_terminal:
        return play(scenario, players, _told(console))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        tasks = {player.name: progress.add_task(player.name, total=scenario.duration) for player in players}
        return play(
            scenario,
            players,
            lambda name, at: progress.update(
                tasks[name], completed=min(scenario.duration, max(0.0, at - WARM_UP))
            ),
        )


def _told(console: Console) -> Callable[[str, float], None]:
    """Return what says who plays now, where no bar can be drawn."""
    playing: list[str] = []

    def tell(name: str, at: float) -> None:
        if name not in playing:
            playing.append(name)
            console.print(f"playing {name}", markup=False, highlight=False)

    return tell


def _burst(text: str) -> int:
    kind, _, size = text.partition(":")
    if kind == "single" and not size:
        return 1
    if kind == "burst" and size.isdigit() and int(size) >= 1:
        return int(size)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 'single' nor 'burst:N'")


def _players(text: str) -> tuple[Player, ...]:
    try:
        return named([name.strip() for name in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
