"""How a budget is spread over what is left of its period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from modelfleet_core.demand.forecast import HourlyProfile, budget_rate

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
DAY = timedelta(days=1)


def busy_at(*hours: int, days: int = 7) -> HourlyProfile:
    """Ten requests a second in these hours, one in others, for some days before `MIDNIGHT`."""
    profile = HourlyProfile()
    for minute in range(0, days * 24 * 60, 10):
        at = MIDNIGHT - days * DAY + timedelta(minutes=minute)
        profile = profile.saw(at, 10.0 if at.hour in hours else 1.0, 600.0)
    return profile.saw(MIDNIGHT, 1.0, 1.0)


def test_without_earlier_days_a_budget_is_spread_evenly() -> None:
    assert budget_rate(86.4, MIDNIGHT, MIDNIGHT + DAY) == pytest.approx(0.001)
    assert budget_rate(86.4, MIDNIGHT, MIDNIGHT + DAY, HourlyProfile()) == pytest.approx(0.001)


def test_money_is_kept_for_the_hours_that_ask_most() -> None:
    profile = busy_at(10, 11)
    night = budget_rate(86.4, MIDNIGHT, MIDNIGHT + DAY, profile)
    assert night < 0.001
    rush = budget_rate(86.4, MIDNIGHT + timedelta(hours=10), MIDNIGHT + DAY, profile)
    assert rush > 5 * night


def test_a_budget_that_is_spent_as_told_lasts_exactly_for_the_period() -> None:
    profile, left = busy_at(10, 11), 100.0
    for minute in range(24 * 60):
        left -= 60 * budget_rate(left, MIDNIGHT + timedelta(minutes=minute), MIDNIGHT + DAY, profile)
        assert left >= -1e-9
    assert left == pytest.approx(0.0, abs=1e-6)


def test_one_day_counts_half_and_seven_nearly_whole() -> None:
    def ratio(profile: HourlyProfile) -> float:
        expected = profile.expected()
        return expected[10] / expected[3]

    assert 1.5 < ratio(busy_at(10, days=1)) < ratio(busy_at(10, days=7)) < 10


def test_an_hour_of_which_little_was_seen_counts_for_nothing() -> None:
    profile = HourlyProfile().saw(MIDNIGHT, 50.0, 600.0).saw(MIDNIGHT + timedelta(hours=1), 1.0, 60.0)
    assert profile.days == (0.0,) * 24


def test_a_new_day_fades_the_old_ones() -> None:
    profile = busy_at(10)
    for minute in range(0, 14 * 24 * 60, 10):
        profile = profile.saw(MIDNIGHT + timedelta(minutes=minute), 1.0, 600.0)
    assert profile.means[10] < 3.0
    assert profile.days[10] == 7.0


def test_an_ended_or_spent_budget_gives_nothing_absurd() -> None:
    assert budget_rate(0.0, MIDNIGHT, MIDNIGHT + DAY) == 0.0
    assert budget_rate(-5.0, MIDNIGHT, MIDNIGHT + DAY) == 0.0
    assert budget_rate(3.0, MIDNIGHT, MIDNIGHT) == pytest.approx(3.0)


def test_a_profile_survives_storage_and_anything_else_is_refused() -> None:
    profile = busy_at(10, 11).saw(MIDNIGHT + timedelta(minutes=5), 2.5, 300.0)
    again = HourlyProfile.parse(profile.text())
    assert again.means == pytest.approx(profile.means, rel=1e-5)
    assert (again.days, again.hour) == (profile.days, profile.hour)
    assert len(profile.text()) < 1024
    for text in ("", "{}", "[1, 2]", "[" + ", ".join(["-1"] * 51) + "]", "[" + ", ".join(["NaN"] * 51) + "]"):
        with pytest.raises(ValueError, match=r"profile|Expecting"):
            HourlyProfile.parse(text)
