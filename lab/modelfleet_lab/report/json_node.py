"""Reads values out of a JSON document, and says where one is missing or of the wrong kind.

In: parsed JSON and its name. Out: typed values, or ValueError that names file and place. Next: `findings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """NaN: it has no meaning there, or was not reached."""

    value: float
    low: float
    """95 % interval; NaN where there is none."""
    high: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True, slots=True)
class Node:
    value: object
    where: str

    def has(self, key: str) -> bool:
        return isinstance(self.value, Mapping) and self.value.get(key) is not None

    def at(self, key: str) -> Node:
        """Return the member; raise ValueError if there is none."""
        found = self._mapping()
        if key not in found:
            raise ValueError(
                f"{self.where}: {key!r} is missing; write the file anew by `modelfleet evaluate --json`"
            )
        return Node(found[key], f"{self.where}: {key}")

    def members(self) -> Iterator[tuple[str, Node]]:
        for key in self._mapping():
            yield key, self.at(key)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self._not("a text")
        return self.value

    def number(self) -> float:
        """Return the number; NaN for null."""
        if self.value is None:
            return math.nan
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self._not("a number or null")
        return float(self.value)

    def numbers(self) -> tuple[float, ...]:
        if not isinstance(self.value, list):
            raise self._not("a list of numbers")
        return tuple(Node(item, f"{self.where}[{k}]").number() for k, item in enumerate(self.value))

    def texts(self) -> tuple[str, ...]:
        if not isinstance(self.value, list):
            raise self._not("a list of texts")
        return tuple(Node(item, f"{self.where}[{k}]").text() for k, item in enumerate(self.value))

    def items(self) -> tuple[Node, ...]:
        if not isinstance(self.value, list):
            raise self._not("a list")
        return tuple(Node(item, f"{self.where}[{k}]") for k, item in enumerate(self.value))

    def figure(self, key: str) -> Figure:
        """Return the number `key` with its interval `key_ci`, where there is one."""
        value, ends = self.at(key).number(), (math.nan, math.nan)
        if self.has(f"{key}_ci"):
            low, high, *more = (*self.at(f"{key}_ci").numbers(), math.nan, math.nan)
            if len(more) != 2:
                raise self.at(f"{key}_ci")._not("a pair of numbers")
            ends = low, high
        return Figure(value, *ends)

    def _mapping(self) -> Mapping[str, object]:
        if not isinstance(self.value, Mapping):
            raise self._not("an object")
        return self.value

    def _not(self, wanted: str) -> ValueError:
        text = repr(self.value)
        return ValueError(
            f"{self.where} is {text if len(text) < 60 else text[:57] + '...'}; it must be {wanted}"
        )
