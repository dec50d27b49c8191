"""Plays one scenario: the product, one central queue, rivals, and what a clairvoyant could serve.

In: a `Scenario` and names of players. Out: `Played`. Next: `report`, `plots`, benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modelfleet_lab.methods.batch_split import BatchSplit
from modelfleet_lab.methods.per_query import Greedy
from modelfleet_lab.methods.published import PublishedBatch
from modelfleet_lab.simulate.bound import Bound, clairvoyant
from modelfleet_lab.simulate.measures import Figures, figures
from modelfleet_lab.simulate.product import ProductQueue
from modelfleet_lab.simulate.rivals import MethodQueue
from modelfleet_lab.simulate.scenario import Faults, Scenario
from modelfleet_lab.simulate.workload import Workload, workload
from modelfleet_lab.simulate.world import Deciders, Run, World


@dataclass(frozen=True, slots=True)
class Player:
    """Who decides. A `central` one sees everything: one sidecar has all slots and all requests."""

    name: str
    decide: Deciders
    central: bool
    says: str


PRODUCT = Player("modelfleet", ProductQueue, False, "leases, prices and windows as deployed")
CENTRAL = Player("central queue", ProductQueue, True, "the same decisions with all slots in one place")
RIVALS = (
    Player(
        "greedy",
        lambda lease, offers: MethodQueue(lease, offers, Greedy()),
        False,
        "the best model with a slot, in order of arrival",
    ),
    Player(
        "prices alone",
        lambda lease, offers: ProductQueue(lease, offers, window=False),
        False,
        "one request at a time at the published prices",
    ),
    Player(
        "batch alone",
        lambda lease, offers: ProductQueue(lease, offers, prices=False),
        False,
        "windows without published prices",
    ),
)
CENTRAL_RIVALS = tuple(replace(rival, name=f"central {rival.name}", central=True) for rival in RIVALS)
FIELD = (
    Player(
        "central BatchSplit",
        lambda lease, offers: MethodQueue(lease, offers, BatchSplit()),
        True,
        "the best cells of small batches first, over all slots",
    ),
    Player(
        "central published batch",
        lambda lease, offers: MethodQueue(lease, offers, PublishedBatch()),
        True,
        "an integer program over all that waits, over all slots, without looking ahead",
    ),
)
PLAYERS = {player.name: player for player in (PRODUCT, CENTRAL, *RIVALS, *CENTRAL_RIVALS, *FIELD)}


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """One player's run."""

    player: Player
    run: Run
    figures: Figures


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    scenario: Scenario
    load: Workload
    bound: Bound
    games: tuple[Game, ...]

    def game(self, name: str) -> Game | None:
        return next((game for game in self.games if game.player.name == name), None)

    @property
    def wait_ratio(self) -> float | None:
        """Return the product's mean wait over the central queue's; None: one of them was not played."""
        product, central = self.game(PRODUCT.name), self.game(CENTRAL.name)
        if product is None or central is None:
            return None
        return product.figures.mean_wait / max(1e-9, central.figures.mean_wait)


def play(
    scenario: Scenario,
    players: Sequence[Player],
    progress: Callable[[str, float], None] = lambda name, seconds: None,
) -> Played:
    """Let each of `players` serve the same requests; `progress` is told the second that one is at."""
    load = workload(scenario)
    if not len(load):
        raise ValueError(
            f"no request arrives within {scenario.duration:g} s at {scenario.rate():.3g} requests/s in "
            f"bursts of {scenario.burst}; raise duration or load"
        )
    runs = [(player, _run(player, scenario, load, progress)) for player in players]
    # All bounds are of the replicas that the first player's run had, which faults and scaling decide.
    first = runs[0][1]
    bound = clairvoyant(load, first.capacity, first.budget / 1e9 if first.budget is not None else None)
    games = tuple(Game(player, run, figures(player.name, load, run, bound)) for player, run in runs)
    return Played(scenario, load, bound, games)


def _run(player: Player, scenario: Scenario, load: Workload, progress: Callable[[str, float], None]) -> Run:
    if player.central:
        load = replace(load, sidecar=np.zeros_like(load.sidecar))
        # Replicas vanish for all alike; a place that sees everything has no messages to lose.
        faults = Faults(replica_every=scenario.faults.replica_every)
        scenario = replace(scenario, sidecars=1, faults=faults)
    return World(scenario, load, player.decide, lambda seconds: progress(player.name, seconds)).run()


def named(names: Collection[str]) -> tuple[Player, ...]:
    """Return the players of these names. Raises ValueError for an unknown one."""
    unknown = sorted(set(names) - PLAYERS.keys())
    if unknown:
        raise ValueError(f"there is no player {unknown[0]!r}; there are {', '.join(PLAYERS)}")
    return tuple(PLAYERS[name] for name in names)
