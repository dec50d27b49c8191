"""Messages of the lease stream survive the wire, and what breaks its bounds is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from modelfleet.v1 import capacity_pb2
from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import ExperienceKey
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.leasing.bounds import WireError
from modelfleet_core.leasing.messages import (
    AccountState,
    Ask,
    Bid,
    Document,
    Need,
    SlotGrant,
    SlotState,
    Want,
)
from modelfleet_core.manifests import parse_fleet
from modelfleet_core.values import ModelName, TaskName, TierName, leased_endpoint
from modelfleet_operator import wire as operator_wire
from modelfleet_sidecar import wire as sidecar_wire
from support.lease_values import LARGE, ONE, POD_A, POD_B, TODAY, grant, money, report
from support.manifests import fleet_manifest

GRANT = replace(
    grant(7, {POD_A: 3, POD_B: 1}, sent_at=12.5),
    slots={POD_A: SlotGrant(LARGE, 3, floor=1), POD_B: SlotGrant(LARGE, 1)},
    accounts={TODAY: replace(money(10**15), allowance=0.125)},
    asks={LARGE: Ask(weight=4.0, price=-0.25)},
    linger={LARGE: 0.2},
    report_every=4.0,
    slot_prices={LARGE: 0.25},
    money_price=3.5,
    estimator=Document("e", b"PK"),
    learned=Document("", b""),
    fleet=Document("f", b"{}"),
    policy=Document("p", b"[]"),
    refusal="because",
)
REPORT = replace(
    report(ONE, 9, applied=4, wants=3, leaving=True, versions=("f", "p")),
    slots={POD_A: SlotState(2, 5)},
    wants={LARGE: Want(3, (Bid(4.0, 0.5, 2), Bid(1.0, -0.25, 1)))},
    accounts={TODAY: AccountState(9, 8, 7, 6, Need(5, 2, 4.0, -0.5))},
    demand=DemandReport(
        models=(ModelName("large"), ModelName("small")),
        cells=((TierName("gold"), TaskName("")),),
        arrivals=np.array([4.0]),
        sums=np.array([[[4.0, 2.0, 0.04, 8.0], [1.0, 0.25, 0.001, 0.5]]]),
    ),
)


def test_a_grant_survives_the_wire() -> None:
    assert sidecar_wire.grant_from(operator_wire.grant_to(GRANT)) == GRANT


def test_the_longest_endpoint_of_a_fleet_survives_the_wire() -> None:
    manifest = fleet_manifest()
    model = manifest["spec"]["models"][1]
    model["name"] = "m" * 128
    model["variants"][0] |= {"name": "v" * 63, "external": {"url": f"https://api.example/{'p' * 2028}"}}
    (variant,) = parse_fleet(manifest).models[1].variants
    assert isinstance(variant.placement, ExternalPlacement)
    endpoint = leased_endpoint(variant.placement.url, variant.key)
    sent = replace(GRANT, slots={endpoint: SlotGrant(variant.key, 3)})
    assert sidecar_wire.grant_from(operator_wire.grant_to(sent)) == sent
    said = replace(REPORT, slots={endpoint: SlotState(1, 3)})
    assert operator_wire.report_from(sidecar_wire.report_to(said)) == said


def test_a_report_survives_the_wire() -> None:
    assert operator_wire.report_from(sidecar_wire.report_to(REPORT)) == REPORT


def test_what_was_learned_of_answers_survives_the_wire() -> None:
    log = ExperienceLog("base")
    key = ExperienceKey(TaskName("math"), "rule", ModelName("large"), "group")
    log.answered(key, 0.7, 0.01)
    log.scored(Answer(key, np.linspace(-1.0, 1.0, EMBEDDING), base=0.5, used=0.7), 1.0)
    sent = replace(REPORT, estimator_version="e", learned_version="l", experience=log.changes())
    message = sidecar_wire.report_to(sent)
    heard = operator_wire.report_from(message)
    assert (heard.estimator_version, heard.learned_version) == ("e", "l")
    experience = operator_wire.experience_from(message.experience)
    assert experience.estimator_version == "base"
    ((model,), (cell,)) = experience.models, experience.cells
    assert model.model == "large"
    for told, had in zip(
        (model.moments, model.products, model.scored),
        (
            sent.experience.models[0].moments,
            sent.experience.models[0].products,
            sent.experience.models[0].scored,
        ),
        strict=True,
    ):
        assert np.array_equal(told, had)
    assert cell.key == key
    assert np.array_equal(cell.sums, sent.experience.cells[0].sums)


def test_an_estimator_that_is_too_large_is_refused_by_its_field() -> None:
    message = capacity_pb2.LeaseGrant(estimator=capacity_pb2.Document(version="e", manifest=b"x" * (1 << 20)))
    assert sidecar_wire.grant_from(message).estimator is not None
    message.estimator.manifest += b"x"
    with pytest.raises(WireError, match=r"estimator.manifest: 1048577 bytes are more than"):
        sidecar_wire.grant_from(message)


def test_a_greeting_announces_only_its_epoch() -> None:
    hello = sidecar_wire.grant_from(operator_wire.greeting(5))
    assert (hello.epoch, hello.sequence, hello.slots, hello.accounts) == (5, 0, {}, {})


def many(message: capacity_pb2.LeaseGrant) -> None:
    for number in range(10_001):
        message.slots.add(endpoint=f"http://{number}", model="m", variant="v")


def twice(message: capacity_pb2.LeaseGrant) -> None:
    message.slots.add(endpoint=POD_A, model="m", variant="v")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("slots.endpoint", twice),
        ("slots.slots", lambda m: setattr(m.slots[0], "slots", 2**31)),
        ("slots.model", lambda m: setattr(m.slots[0], "model", "")),
        ("accounts.granted", lambda m: setattr(m.accounts[0], "granted", -1)),
        ("accounts.ends_in_ns", lambda m: setattr(m.accounts[0], "ends_in_ns", -1)),
        ("prices.slot_second", lambda m: setattr(m.prices[0], "slot_second", float("nan"))),
        ("money_price", lambda m: setattr(m, "money_price", float("inf"))),
        ("accounts.allowance", lambda m: setattr(m.accounts[0], "allowance", float("nan"))),
        ("asks.price", lambda m: setattr(m.asks[0], "price", float("inf"))),
        ("lingers.unused_ns", lambda m: setattr(m.lingers[0], "unused_ns", -1)),
        ("slots.floor", lambda m: setattr(m.slots[0], "floor", 2**31)),
        ("report_every_ns", lambda m: setattr(m, "report_every_ns", -1)),
        ("policy.manifest", lambda m: setattr(m.policy, "manifest", b"x" * (2 << 20))),
        ("slots", many),
    ],
)
def test_a_grant_beyond_bounds_names_the_field(
    field: str, change: Callable[[capacity_pb2.LeaseGrant], None]
) -> None:
    message = operator_wire.grant_to(GRANT)
    change(message)
    with pytest.raises(WireError, match=f"^{field}: "):
        sidecar_wire.grant_from(message)


def many_slots(message: capacity_pb2.LeaseReport) -> None:
    for number in range(10_001):
        message.slots.add(endpoint=f"http://{number}")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("identity.uid", lambda m: setattr(m.identity, "uid", "")),
        ("identity.pod", lambda m: setattr(m.identity, "pod", "x" * 2000)),
        ("slots.kept", lambda m: setattr(m.slots[0], "kept", 2**31)),
        ("accounts.spent", lambda m: setattr(m.accounts[0], "spent", -5)),
        ("demand.cells.arrivals", lambda m: setattr(m.demand.cells[0], "arrivals", float("nan"))),
        ("demand.sums", lambda m: m.demand.sums.__setitem__(2, -1.0)),
        ("demand.sums", lambda m: m.demand.sums.__setitem__(2, float("inf"))),
        ("demand.sums", lambda m: m.demand.sums.append(1.0)),
        ("demand.models", lambda m: m.demand.models.__setitem__(1, "large")),
        ("demand.models", lambda m: m.demand.models.__setitem__(1, "")),
        ("demand.models", lambda m: m.demand.models.extend(str(n) for n in range(1_001))),
        ("demand.cells", lambda m: m.demand.cells.add(tier="gold")),
        ("wants.bids.price", lambda m: setattr(m.wants[0].bids[0], "price", float("nan"))),
        ("wants.bids.weight", lambda m: setattr(m.wants[0].bids[0], "weight", -1.0)),
        ("wants.variant", lambda m: setattr(m.wants[0], "variant", "")),
        ("slots", many_slots),
    ],
)
def test_a_report_beyond_bounds_names_the_field(
    field: str, change: Callable[[capacity_pb2.LeaseReport], None]
) -> None:
    message = sidecar_wire.report_to(REPORT)
    change(message)
    with pytest.raises(WireError, match=f"^{field}: "):
        operator_wire.report_from(message)
