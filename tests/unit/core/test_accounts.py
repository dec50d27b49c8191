"""Which accounts a policy has, and which of them a request charges."""

from __future__ import annotations

import pytest
from modelfleet_core.leasing.accounts import (
    BUDGET,
    JUDGE,
    Account,
    Unit,
    accounts_of,
    charges,
    counts_requests,
)
from modelfleet_core.leasing.rates import rate_limits, rate_uses
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_core.policy import Period
from modelfleet_core.values import (
    AccountId,
    ModelName,
    NanoUsd,
    PeriodId,
    account_id,
    account_parts,
    is_rate,
)
from support.manifests import fleet_manifest, full_fleet_manifest, full_policy_manifest, policy_manifest

FRONTIER = ModelName("frontier")
LARGE = ModelName("large")
ACCOUNTS = accounts_of(parse_policy(full_policy_manifest()))


def test_a_policy_has_a_budget_and_an_account_for_each_part_of_it_and_each_quota() -> None:
    frontier = frozenset({FRONTIER})
    assert accounts_of(parse_policy(full_policy_manifest())) == (
        Account(BUDGET, Unit.MONEY, 60 * 10**9, Period.HOUR),
        Account("share:frontier", Unit.MONEY, 9 * 10**9, Period.HOUR, models=frontier),
        Account("tenant:acme", Unit.MONEY, 12 * 10**9, Period.HOUR, tenant="acme"),
        Account("quota:Day:frontier", Unit.REQUESTS, 100, Period.DAY, models=frontier),
        Account(JUDGE, Unit.MONEY, 5 * 10**9, Period.WEEK),
    )


@pytest.mark.parametrize(
    ("model", "tenant", "charged"),
    [
        (LARGE, None, {BUDGET: 7}),
        (LARGE, "acme", {BUDGET: 7, "tenant:acme": 7}),
        (FRONTIER, None, {BUDGET: 7, "share:frontier": 7, "quota:Day:frontier": 1}),
        (FRONTIER, "acme", {BUDGET: 7, "share:frontier": 7, "tenant:acme": 7, "quota:Day:frontier": 1}),
    ],
)
def test_a_request_charges_every_account_that_covers_it(
    model: ModelName, tenant: str | None, charged: dict[str, int]
) -> None:
    assert charges(ACCOUNTS, model, tenant, NanoUsd(7)) == charged


@pytest.mark.parametrize(
    ("model", "charged"), [(LARGE, {JUDGE: 7}), (FRONTIER, {JUDGE: 7, "quota:Day:frontier": 1})]
)
def test_the_judge_charges_its_own_account_and_quotas_but_no_money_of_users(
    model: ModelName, charged: dict[str, int]
) -> None:
    assert charges(ACCOUNTS, model, None, NanoUsd(7), judging=True) == charged


def test_a_plug_in_as_judge_needs_no_account() -> None:
    manifest = policy_manifest()
    before = accounts_of(parse_policy(manifest))
    manifest["spec"]["judge"] = {"plugin": "mine", "share": "2%"}
    assert accounts_of(parse_policy(manifest)) == before


def test_a_policy_that_limits_nothing_has_no_account() -> None:
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    assert accounts_of(parse_policy(manifest)) == ()


def test_an_account_keeps_its_name_when_its_limit_changes_or_its_models_are_listed_anew() -> None:
    names = set()
    for models, limit in ((["a", "b"], "10%"), (["b", "a"], "20%")):
        manifest = full_policy_manifest()
        manifest["spec"]["budget"]["shares"] = [{"models": models, "max": limit}]
        names.add(accounts_of(parse_policy(manifest))[1].name)
    assert names == {"share:a,b"}


def test_long_lists_of_models_have_short_distinct_names() -> None:
    names = set()
    for last in "xy":
        manifest = full_policy_manifest()
        models = [f"{'m' * 100}{number}" for number in range(20)] + [last]
        manifest["spec"]["budget"]["shares"] = [{"models": models, "max": "10%"}]
        names.add(accounts_of(parse_policy(manifest))[1].name)
    assert len(names) == 2
    assert all(len(name) < 256 for name in names)


def test_a_share_is_rounded_down_to_whole_nano_usd() -> None:
    manifest = full_policy_manifest()
    manifest["spec"]["budget"]["limit"] = "0.000000003"
    manifest["spec"]["budget"]["shares"] = [{"models": ["a"], "max": "50%"}]
    assert accounts_of(parse_policy(manifest))[1].limit == 1


def test_ids_of_accounts_come_apart_again_whatever_their_names_hold() -> None:
    period = PeriodId("ml/assistant/Day/2026-11-25")
    name = accounts_of(parse_policy(full_policy_manifest()))[1].name
    for odd in (name, "share:org/model:1,b", "tenant:a/b/c"):
        assert account_parts(account_id(period, odd)) == (period, odd)  # type: ignore[arg-type]
    assert account_parts(AccountId("nonsense"))[1] == ""


def test_only_quotas_count_requests() -> None:
    assert [counts_requests(account.name) for account in ACCOUNTS] == [
        account.unit is Unit.REQUESTS for account in ACCOUNTS
    ]


def test_limits_by_the_minute_are_leased_in_units() -> None:
    large, frontier = (model.variants[0] for model in parse_fleet(full_fleet_manifest()).models)
    url = "https://api.example.com#frontier/api"
    assert set(rate_limits(frontier).values()) == {(f"{url}!requests", 500), (f"{url}!tokens", 200)}
    assert all(is_rate(key) for key in rate_limits(frontier))
    assert not is_rate(frontier.key)
    assert rate_uses(frontier, 1) == {f"{url}!requests": 1, f"{url}!tokens": 1}
    assert rate_uses(frontier, 12_001) == {f"{url}!requests": 1, f"{url}!tokens": 13}
    assert rate_limits(large) == rate_uses(large, 5) == {}
    assert rate_uses(parse_fleet(fleet_manifest()).models[1].variants[0], 5) == {}
