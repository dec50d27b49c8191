"""Reads fields of raw Kubernetes objects with a type; a missing or other-typed field gives an empty value.

For the adapters and `observe`; fleets and policies are parsed, and refused, by `spec`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def mapping(source: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the object-valued field, or an empty mapping."""
    value = source.get(name)
    return value if isinstance(value, Mapping) else {}


def items(source: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    """Return the objects of a list field, or nothing."""
    value = source.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def strings(source: Mapping[str, object], name: str) -> Sequence[str]:
    """Return the scalars of a list field as text, or nothing."""
    value = source.get(name)
    return [str(item) for item in value] if isinstance(value, list) else []


def text(source: Mapping[str, object], name: str) -> str:
    """Return the scalar field as text, or `""`."""
    value = source.get(name)
    return "" if value is None or isinstance(value, Mapping | list) else str(value)


def texts(source: Mapping[str, object], name: str) -> dict[str, str]:
    """Return the scalars of an object-valued field as text, such as labels."""
    return {key: str(value) for key, value in mapping(source, name).items()}


def integer(source: Mapping[str, object], name: str, default: int = 0) -> int:
    """Return the field as a whole number (also of a quantity without unit, such as `"8"`), or `default`."""
    try:
        return int(text(source, name))
    except ValueError:
        return default
