"""The closed loop: requests end once, limits hold at the servers, runs repeat exactly, faults included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.simulate.measures import Figures
from modelfleet_lab.simulate.play import CENTRAL, FIELD, PRODUCT, RIVALS, Played, Player, play
from modelfleet_lab.simulate.scenario import FAULTS, Faults, Scenario
from support.simulations import TINY


def played(scenario: Scenario, *players: Player) -> Played:
    return play(scenario, players or (PRODUCT,))


def row(scenario: Scenario) -> Figures:
    return played(scenario).games[0].figures


def test_without_faults_every_request_is_answered_and_no_limit_breaks() -> None:
    found = row(TINY)
    assert found.answered == found.requests > 0
    assert found.violations == 0
    assert 0.7 < found.share <= 1.0
    assert found.reports_per_second > 0
    assert found.grants_per_second > 0


@pytest.mark.parametrize("player", [PRODUCT, CENTRAL, *RIVALS, *FIELD], ids=lambda player: player.name)
def test_no_player_beats_the_clairvoyant_or_breaks_a_limit(player: Player) -> None:
    found = played(replace(TINY, burst=4, seed=5), player).games[0].figures
    assert found.share <= 1.0
    assert found.violations == 0


def test_the_same_scenario_gives_the_same_run() -> None:
    scenario = replace(TINY, faults=FAULTS["all"], budget=0.3)
    first, second = (played(scenario).games[0].run for _ in range(2))
    np.testing.assert_array_equal(first.fates.started, second.fates.started)
    np.testing.assert_array_equal(first.fates.model, second.fates.model)
    assert first.billed == second.billed
    assert first.traffic == second.traffic


def test_another_seed_gives_other_requests() -> None:
    one, two = (played(replace(TINY, seed=seed)).load for seed in (1, 2))
    assert len(one) != len(two) or not np.array_equal(one.arrived, two.arrived)


def test_a_hard_budget_is_never_passed_as_the_servers_bill() -> None:
    scenario = replace(TINY, budget=0.08)
    run = played(scenario).games[0].run
    assert run.budget is not None
    assert 0 < run.billed <= run.granted <= run.budget
    free = played(replace(scenario, budget=0.0)).games[0].run
    assert free.billed > run.budget


FAULT_KINDS = {
    "broken streams": Faults(loss=0.05, jitter=0.02),
    "crashes": Faults(crash_every=3.0),
    "stalls": Faults(stall_every=3.0),
    "failover": Faults(failover_every=6.0),
    "lost replicas": Faults(replica_every=5.0),
    "all": Faults(0.01, 0.02, 8.0, 8.0, 15.0, 10.0),
}


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_under_faults_requests_end_once_and_no_limit_breaks(kind: str) -> None:
    scenario = replace(TINY, faults=FAULT_KINDS[kind], budget=0.5, duration=8.0, seed=1)
    found = row(scenario)
    assert found.violations == 0
    assert found.overloaded == found.overspent == found.hung == found.ended_twice == 0
    assert found.answered > 0
    assert found.answered + sum(found.not_answered.values()) == found.requests


def test_crashed_sidecars_lose_their_requests_and_say_so() -> None:
    found = row(replace(TINY, faults=Faults(crash_every=1.0), seed=2))
    assert found.not_answered.get("Crash", 0) > 0
    assert found.answered + sum(found.not_answered.values()) == found.requests


def test_a_new_leader_goes_on_where_the_old_one_ended() -> None:
    found = row(replace(TINY, faults=Faults(failover_every=5.0), duration=12.0))
    assert found.answered > 0.8 * found.requests


def test_the_central_queue_has_one_sidecar_and_the_same_requests() -> None:
    both = played(TINY, PRODUCT, CENTRAL)
    assert [game.figures.requests for game in both.games] == [len(both.load)] * 2
    assert both.wait_ratio is not None
    assert both.games[1].figures.reports_per_second < both.games[0].figures.reports_per_second
    assert played(TINY).wait_ratio is None


def test_allocation_moves_replicas_within_the_pool() -> None:
    scenario = replace(TINY, scaling=True, duration=25.0, slots=16)
    run = played(scenario).games[0].run
    starts = {start for start, _, _, _ in run.capacity}
    assert len(starts) > 1
    assert all(sample.live <= 16 + 2 * scenario.concurrency for sample in run.fates.samples)
