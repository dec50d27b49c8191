"""Stage batch, the edge: fields of a request, each of one type, or a `Failure` that names the field.

In: the parsed JSON of a request. Out: typed values. Next: the parsers of the kinds of calls.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_sidecar.failures import bad_field


def string(fields: Mapping[str, object], name: str) -> str:
    """Return a text; absent: empty."""
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_field(name, f"must be a string, not {kind_of(value)}")
    return value


def integer(fields: Mapping[str, object], name: str, *, least: int, most: int = 2**31 - 1) -> int | None:
    """Return a whole number; absent: None."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        given = str(value) if isinstance(value, float) else kind_of(value)
        raise bad_field(name, f"must be a whole number, not {given}")
    if not least <= value <= most:
        raise bad_field(name, f"must be from {least} to {most}")
    return value


def flag(fields: Mapping[str, object], name: str, where: str = "") -> bool:
    """Return true or false; absent: false. `where`: how the field is called, if not by its name."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_field(where or name, f"must be true or false, not {kind_of(value)}")
    return bool(value)


def mapping(fields: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return an object; absent: an empty one."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_field(name, f"must be an object, not {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """Name a JSON value's type in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
