"""One tenant that sends 50 times its part costs the others next to nothing, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.simulate.measures import Served, served
from modelfleet_lab.simulate.play import PRODUCT
from modelfleet_lab.simulate.scenario import SCENARIOS, Scenario, check
from modelfleet_lab.simulate.workload import WARM_UP, workload
from modelfleet_lab.simulate.world import World

HOT = replace(SCENARIOS["hot-tenant"], slots=40, hot_after=20.0, duration=35.0, deadline=15.0)
CALM = replace(HOT, hot=1.0)


def others(scenario: Scenario) -> Served:
    load = workload(scenario)
    run = World(scenario, load, PRODUCT.decide).run()
    return served(load, run, (load.tenant != 0) & (load.arrived >= WARM_UP + scenario.hot_after))


def test_others_quality_and_latency_stay_within_five_percent() -> None:
    with_it, without = others(HOT), others(CALM)
    assert with_it.answered == without.answered == 1.0
    assert with_it.quality == pytest.approx(without.quality, rel=0.05)
    assert with_it.latency == pytest.approx(without.latency, rel=0.05)


def test_what_others_send_is_the_same_with_a_hot_tenant() -> None:
    hot, calm = workload(HOT), workload(CALM)
    for name in ("arrived", "service", "quality", "tenant"):
        theirs = getattr(hot, name)[hot.tenant != 0]
        np.testing.assert_array_equal(theirs, getattr(calm, name)[calm.tenant != 0])
    begun = hot.arrived >= WARM_UP + HOT.hot_after
    assert ((hot.tenant == 0) & begun).sum() > 4 * ((hot.tenant != 0) & begun).sum()
    assert ((hot.tenant == 0) & ~begun).sum() == ((calm.tenant == 0) & (calm.arrived < WARM_UP + 20.0)).sum()


@pytest.mark.parametrize("field", ["tenants", "hot"])
def test_a_scenario_without_a_tenant_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        check(replace(HOT, **{field: 0}))
