"""Leases keep their promises whatever happens to messages, processes, capacity, clocks and the ledger."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.leasing import grants
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.leasing.purse import Purse
from support.lease_replay import finish, run, run_many
from support.lease_world import ACTIONS, LeaseWorld

pytestmark = pytest.mark.property
STEPS = 400
WORLDS = 2_520
"""Of `STEPS` steps each, divided over `WORKERS` processes."""
WORKERS = 2
PART = 90
SEEDS = st.integers(2**20, 2**32)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_limits_hold_over_any_history_and_nothing_leaks(seed: int) -> None:
    run(seed, STEPS, end=True)


def test_limits_hold_over_a_million_steps_and_nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each world also comes to its end: nothing is left held or reserved, and all can be had again."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")  # the workers' sets are in one order, so a seed is one history
    happened: Counter[str] = Counter()
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        parts = [range(first, first + PART) for first in range(0, WORLDS, PART)]
        for counts in pool.map(run_many, parts, [STEPS] * len(parts)):
            happened.update(counts)
    in_the_middle = happened.pop("crash in the middle")
    assert sum(happened.values()) >= 1_000_000
    assert in_the_middle > 100
    assert {name: count for name, count in happened.items() if count < 300} == {}
    assert happened.keys() == ACTIONS.keys()


def test_a_seed_has_one_history() -> None:
    traces = []
    for _ in range(2):
        world = LeaseWorld(11)
        world.trace = []
        finish(world, STEPS, end=True)
        traces.append(world.trace)
    assert len(traces[0]) > STEPS / 2
    assert traces[0] == traces[1]


def test_limits_hold_though_sidecars_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    close = Purse.close

    def counted(self: Purse, sidecar: SidecarId) -> None:
        closed.append(sidecar)
        close(self, sidecar)

    monkeypatch.setattr(grants, "RETIRED_FOR", 20.0)
    monkeypatch.setattr(Purse, "close", counted)
    for seed in range(25):
        run(seed, STEPS)
    assert closed
