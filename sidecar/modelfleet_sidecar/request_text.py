"""Stage batch, the edge: a request's JSON is read once, and its values keep the text that they came as.

In: a request's bytes. Out: its fields, and where in the text each value stands, so that `write` sends on what
nobody changed byte for byte: whole numbers of any length, decimals, escapes. Next: `calls`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.request_fields import kind_of

_BLANK = re.compile(r"[ \t\n\r]*")
_scan_text = json.decoder.scanstring  # type: ignore[attr-defined]


class Place(NamedTuple):
    """Where a value stands in the text."""

    value: object
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The text of a request, and the places of its fields' values."""

    text: str
    places: Mapping[str, Place]

    def of(self, name: str, value: object) -> str | None:
        """Return the text of a field that still has the value that was read; None: it is another one."""
        place = self.places.get(name)
        return self.text[place.start : place.end] if place is not None and place.value is value else None


class Written(str):
    """A value as JSON text."""

    __slots__ = ()


class _RepeatedError(Exception):
    """An object has a name twice."""


def read(body: bytes) -> tuple[dict[str, object], Source | None]:
    """Return the fields of a JSON object, and their text; None: a name is there twice.

    Where a name is there twice the last value counts, and only that one is sent on: otherwise a server that
    takes the first would be asked something else than what was bounded. Raises Failure.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"the body is not UTF-8: byte {error.start} can not be read") from None
    try:
        return _scanned(text)
    except (_RepeatedError, ValueError, StopIteration):
        pass  # the slow way takes it, or says what is wrong and where
    except RecursionError:
        raise _malformed("the body is nested too deeply") from None
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise _malformed("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno} column {error.colno}"
        raise _malformed(f"the body is not JSON: {error.msg} {where}") from None
    except ValueError as error:
        raise _malformed(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        problem = f"the body must be a JSON object, not {kind_of(value)}"
        raise Failure(Fault.BAD_REQUEST, "InvalidField", problem)
    return value, None


def write(fields: Mapping[str, object], source: Source | None) -> bytes:
    """Return fields as JSON, each as it stands in `source` where it has not been changed. Raises Failure."""
    if source is None and not any(isinstance(value, Written) for value in fields.values()):
        return dump(fields).encode()
    parts: list[str] = []
    for name, value in fields.items():
        text = value if isinstance(value, Written) else source.of(name, value) if source is not None else None
        parts.append(f"{dump(name)}:{dump(value) if text is None else text}")
    return f"{{{','.join(parts)}}}".encode()


def dump(value: object) -> str:
    """Return JSON in ASCII. Raises Failure where it is nested too deeply."""
    try:
        return _encode(value)
    except RecursionError:
        raise _malformed("the request is nested too deeply") from None


def _scanned(text: str) -> tuple[dict[str, object], Source]:
    """Return the fields of an object without repeated names.

    Raises ValueError, StopIteration or RecursionError on whatever else it is, and _RepeatedError.
    """
    at = _after_blank(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("no object")
    at = _after_blank(text, at + 1)
    fields: dict[str, object] = {}
    places: dict[str, Place] = {}
    more = text[at : at + 1] != "}"
    while more:
        if text[at : at + 1] != '"':
            raise ValueError("no name")
        name, at = _scan_text(text, at + 1)
        at = _after_blank(text, at)
        if text[at : at + 1] != ":":
            raise ValueError("no colon")
        start = _after_blank(text, at + 1)
        value, end = _scan(text, start)
        if name in fields:
            raise _RepeatedError
        fields[name] = value
        places[name] = Place(value, start, end)
        at = _after_blank(text, end)
        more = text[at : at + 1] == ","
        if more:
            at = _after_blank(text, at + 1)
    if text[at : at + 1] != "}" or _after_blank(text, at + 1) != len(text):
        raise ValueError("no end")
    return fields, Source(text, places)


def _after_blank(text: str, at: int) -> int:
    if text[at : at + 1] > " ":  # as nearly always
        return at
    found = _BLANK.match(text, at)
    assert found is not None  # noqa: S101 - the empty text matches too
    return found.end()


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _RepeatedError
    return fields


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _malformed(problem: str) -> Failure:
    return Failure(Fault.BAD_REQUEST, "MalformedJson", problem)


_scan = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite).scan_once  # type: ignore[attr-defined]
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
