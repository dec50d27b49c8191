"""Records are values that nobody changes, made fast."""

from __future__ import annotations

from dataclasses import field, replace

import pytest
from modelfleet_core.records import record


@record
class Point:
    x: int
    y: int = 2
    both: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "both", self.x + self.y)


def test_a_record_has_its_fields_and_no_others() -> None:
    point = replace(Point(1), x=5)
    assert (point.x, point.y, point.both) == (5, 2, 7)
    with pytest.raises(AttributeError):
        object.__setattr__(point, "z", 1)


def test_records_are_compared_by_identity() -> None:
    first, second = Point(1), Point(1)
    assert first != second
    assert len({first, second, first}) == 2
