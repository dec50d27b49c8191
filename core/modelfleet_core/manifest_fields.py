"""Stage spec: typed, bounded reading of one JSON object of a manifest.

In: a value as JSON gives it (anything at all). Out: a text, integer, decimal, duration or sub-object, or one
`SpecError` that names the field. Next: `manifests` puts the values together. Every field that is asked for is
remembered, so that `unread` can name what a manifest says in vain.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from modelfleet_core.errors import SpecError
from modelfleet_core.values import ObjectKey

DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600)}
_DECIMAL = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BYTES = re.compile(r"([0-9]{1,12})(Ki|Mi|Gi)?")
_BYTE_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_PERCENT = re.compile(r"(100(?:\.0{1,4})?|[0-9]{1,2}(?:\.[0-9]{1,4})?)%")
MAX_DURATION_TEXT = 20
MAX_MONEY = 999_999_999

OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
OBJECT_RULE = "a name of lower-case letters, digits, - and ."
MODEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:/]*[A-Za-z0-9])?")
MODEL_RULE = "a name of letters, digits and - . _ : /"


def parse_duration(text: object, path: str = "duration") -> float:
    """Return the seconds of a Kubernetes duration such as `250ms`, `1m30s` or `1.5h`; raises `SpecError`."""
    if not isinstance(text, str) or len(text) > MAX_DURATION_TEXT or not DURATION.fullmatch(text):
        remedy = "write a Kubernetes duration of the units h, m, s and ms, such as 250ms or 1m30s"
        if isinstance(text, str) and re.fullmatch(r"[0-9.]+[dw]", text):
            remedy += " (days and weeks are no units of it: 7d is 168h)"
        raise SpecError(path, f"{shown(text)} is not a duration", remedy)
    return float(sum(Fraction(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def shown(value: object) -> str:
    """Return a short form of `value` for messages."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"  # Python refuses to print integers of thousands of digits
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "..."


class Fields:
    """One object of a manifest at `path`. Methods read one field each and raise `SpecError`.

    A field that is absent or null takes its default; without a default it is required.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise SpecError(path, f"is {shown(value)}, not an object", "write it as fields")
        self.path = path
        self._value: Mapping[object, object] = value
        self._asked: dict[str, tuple[Fields, ...]] = {}

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        return self._value.get(name) is not None

    def text(
        self,
        name: str,
        *,
        pattern: re.Pattern[str],
        rule: str,
        default: str | None = None,
        longest: int = 253,
    ) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise SpecError(self.at(name), f"is {shown(value)}, not a text", f"write {rule}")
        if len(value) > longest or not pattern.fullmatch(value):
            raise SpecError(self.at(name), f"{shown(value)} is refused", f"write {rule}")
        return value

    def choice(self, name: str, choices: Iterable[str], default: str | None = None) -> str:
        allowed = tuple(choices)
        value = self._get(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise SpecError(self.at(name), f"{shown(value)} is refused", f"write {' or '.join(allowed)}")
        return value

    def choices(self, name: str, choices: Sequence[str]) -> frozenset[str]:
        """Return a list of different ones of `choices`; absent: all of them."""
        value = self._get(name, list(choices))
        if not isinstance(value, list | tuple):
            raise SpecError(self.at(name), f"is {shown(value)}, not a list", "write it as a list")
        for index, item in enumerate(value):
            if item not in choices:
                remedy = f"write {' or '.join(choices)}"
                raise SpecError(f"{self.at(name)}[{index}]", f"{shown(item)} is refused", remedy)
        unique(self.at(name), "entry", value)
        return frozenset(value)

    def integer(self, name: str, *, least: int, most: int, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise SpecError(
                self.at(name), f"is {shown(value)}", f"write a whole number from {least} to {most}"
            )
        return value

    def decimal(self, name: str, *, most: int, default: str | None = None, positive: bool = False) -> Decimal:
        """Return a decimal from 0 to `most`; above 0 if `positive`."""
        return decimal_of(self._get(name, default), self.at(name), most=most, positive=positive)

    def duration(
        self,
        name: str,
        *,
        default: str | None = None,
        least: str = "0s",
        most: str = "8760h",
    ) -> float:
        """Return seconds between `least` and `most`."""
        value = self._get(name, default)
        seconds = parse_duration(value, self.at(name))
        if not parse_duration(least) <= seconds <= parse_duration(most):
            raise SpecError(self.at(name), f"is {shown(value)}", f"write a duration from {least} to {most}")
        return seconds

    def bytes(self, name: str, *, least: int, most: int, default: str | None = None) -> int:
        """Return a number of bytes, written as an integer or with Ki, Mi or Gi."""
        value = self._get(name, default)
        text = _digits(value)
        match = _BYTES.fullmatch(text) if isinstance(text, str) and len(text) <= 16 else None
        size = int(match[1]) * _BYTE_UNITS[match[2]] if match else -1
        if not least <= size <= most:
            remedy = f"write {least} to {most} bytes as an integer or with Ki, Mi or Gi, such as 16Mi"
            raise SpecError(self.at(name), f"is {shown(value)}", remedy)
        return size

    def texts(self, name: str, *, most: int = 16, longest: int = 256) -> dict[str, str]:
        """Return a map of texts; absent: empty."""
        value = self._get(name, {})
        entries = Fields(value, self.at(name))._value
        if len(entries) > most:
            raise SpecError(self.at(name), f"has {len(entries)} entries", f"write at most {most}")
        for key, text in entries.items():
            if not (isinstance(key, str) and isinstance(text, str)):
                raise SpecError(
                    self.at(name), f"{shown(key)}: {shown(text)} is refused", "write and quote texts"
                )
            if not (0 < len(key) <= longest and len(text) <= longest):
                raise SpecError(
                    self.at(name), f"{shown(key)} is refused", f"write texts of at most {longest} letters"
                )
        return {str(key): str(text) for key, text in entries.items()}

    def strings(self, name: str, *, most: int, longest: int) -> tuple[str, ...]:
        """Return a list of texts in their order; absent: empty."""
        value = self._get(name, [])
        if not isinstance(value, list | tuple):
            raise SpecError(self.at(name), f"is {shown(value)}, not a list", "write it as a list")
        if len(value) > most:
            raise SpecError(self.at(name), f"has {len(value)} entries", f"write at most {most}")
        for index, item in enumerate(value):
            if not isinstance(item, str) or not 0 < len(item) <= longest:
                remedy = f"write and quote a text of 1 to {longest} letters"
                raise SpecError(f"{self.at(name)}[{index}]", f"{shown(item)} is refused", remedy)
        return tuple(value)

    def json(self, name: str, *, most: int, longest: int, deepest: int) -> Mapping[str, object]:
        """Return an object of any JSON: `most` fields, `longest` letters, `deepest` levels; absent: empty."""
        found = Fields(self._get(name, {}), self.at(name))._value
        if len(found) > most:
            raise SpecError(self.at(name), f"has {len(found)} entries", f"write at most {most}")
        if not all(isinstance(key, str) for key in found):
            raise SpecError(self.at(name), "has a name that is no text", "quote it")
        if _deeper(found, deepest):
            raise SpecError(self.at(name), "is nested too deeply", f"nest at most {deepest} levels")
        try:
            text = json.dumps(found, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SpecError(self.at(name), f"is no JSON: {error}", "write texts, numbers and lists") from None
        if len(text) > longest:
            problem = f"is {len(text)} letters long as JSON"
            raise SpecError(self.at(name), problem, f"write at most {longest}")
        read: dict[str, object] = json.loads(text)
        return read

    def decimals(self, name: str, *, most: int, entries: int = 64, longest: int = 63) -> dict[str, Decimal]:
        """Return a map of decimals from 0 to `most`; absent: empty."""
        found = Fields(self._get(name, {}), self.at(name))._value
        if len(found) > entries:
            raise SpecError(self.at(name), f"has {len(found)} entries", f"write at most {entries}")
        result: dict[str, Decimal] = {}
        for key, value in found.items():
            if not isinstance(key, str) or not 0 < len(key) <= longest:
                raise SpecError(
                    self.at(name), f"the name {shown(key)} is refused", f"write 1 to {longest} letters"
                )
            result[key] = decimal_of(value, f"{self.at(name)}.{shown(key)[1:-1]}", most=most)
        return result

    def decimal_or(self, name: str, word: str, *, most: int) -> Decimal | None:
        """Return a decimal from 0 to `most`; None for `word`, which is the default."""
        value = self._get(name, word)
        if value == word:
            return None
        try:
            return decimal_of(value, self.at(name), most=most)
        except SpecError as error:
            raise SpecError(error.path, error.problem, f"{error.remedy}, or {word}") from None

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise SpecError(self.at(name), f"is {shown(value)}", "write true or false")
        return value

    def fraction(self, name: str, *, most: Decimal = Decimal(1), default: str | None = None) -> Decimal:
        """Return a percentage such as `15%`, of 0 to `most`, as an exact part of 1."""
        value = self._get(name, default)
        match = _PERCENT.fullmatch(value) if isinstance(value, str) and len(value) <= 9 else None
        if match is None or Decimal(match[1]) / 100 > most:
            highest = f"{(most * 100).normalize():f}%"
            remedy = (
                f'write a percentage from "0%" to "{highest}", such as {min(15, int(most * 40))}% or 0.5%'
            )
            raise SpecError(self.at(name), f"is {shown(value)}", remedy)
        return Decimal(match[1]) / 100

    def names(
        self, name: str, *, pattern: re.Pattern[str], rule: str, most: int, longest: int
    ) -> frozenset[str]:
        """Return a list of 1 to `most` different texts."""
        value = self._get(name, None)
        if not isinstance(value, list | tuple):
            raise SpecError(self.at(name), f"is {shown(value)}, not a list", "write it as a list")
        if not 1 <= len(value) <= most:
            raise SpecError(self.at(name), f"has {len(value)} entries", f"write 1 to {most}")
        for index, item in enumerate(value):
            if not isinstance(item, str) or len(item) > longest or not pattern.fullmatch(item):
                raise SpecError(f"{self.at(name)}[{index}]", f"{shown(item)} is refused", f"write {rule}")
        unique(self.at(name), "name", value)
        return frozenset(value)

    def port(self, name: str) -> str:
        """Return a port as text: the name or number of a Service's port."""
        value = self._get(name, None)
        number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535
        named = (
            isinstance(value, str)
            and len(value) <= 15
            and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", value)
        )
        if not (number or named):
            raise SpecError(
                self.at(name), f"is {shown(value)}", "write the name or number of a port of the Service"
            )
        return str(value)

    def child(self, name: str) -> Fields:
        """Return a sub-object; absent: an empty one, all of whose fields take their defaults."""
        child = Fields(self._get(name, {}), self.at(name))
        self._asked[name] = (child,)
        return child

    def children(self, name: str, *, most: int, least: int = 0) -> tuple[Fields, ...]:
        """Return the objects of a list; absent: none."""
        value = self._get(name, [])
        if not isinstance(value, list | tuple):
            raise SpecError(self.at(name), f"is {shown(value)}, not a list", "write it as a list")
        if not least <= len(value) <= most:
            raise SpecError(self.at(name), f"has {len(value)} entries", f"write {least} to {most}")
        children = tuple(Fields(item, f"{self.at(name)}[{index}]") for index, item in enumerate(value))
        self._asked[name] = children
        return children

    def unread(self) -> tuple[str, ...]:
        """Return the paths that this object holds and nothing has asked for."""
        own = [self.at(shown(key).strip('"')) for key in self._value if key not in self._asked]
        below = [path for children in self._asked.values() for child in children for path in child.unread()]
        return (*own, *below)

    def asked(self) -> frozenset[str]:
        """Return the names asked for here and below, as paths without indices."""
        own = {_schema_path(self.at(name)) for name in self._asked}
        return frozenset(
            own.union(*(child.asked() for children in self._asked.values() for child in children))
        )

    def _get(self, name: str, default: object) -> object:
        self._asked.setdefault(name, ())
        value = self._value.get(name)
        if value is None:
            value = default
        if value is None:
            raise SpecError(self.at(name), "is missing", "set it: it has no default")
        return value


def key_of(root: Fields) -> ObjectKey:
    """Return the namespace and name of the manifest at `root`."""
    metadata = root.child("metadata")
    return ObjectKey(
        namespace=metadata.text(
            "namespace", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63, default="default"
        ),
        name=metadata.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE),
    )


def unique(path: str, what: str, names: Iterable[str]) -> None:
    """Raise `SpecError` if one of `names` is there twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SpecError(path, f"the {what} {shown(twice[0])} is there twice", "give each its own name")


def decimal_of(value: object, path: str, *, most: int, positive: bool = False) -> Decimal:
    """Return `value` (a quoted decimal or an integer) as an exact decimal from 0 to `most`."""
    if isinstance(value, float):
        raise SpecError(path, f"{value!r} is not quoted", f'quote the decimal: "{value!r}"')
    text = _digits(value)
    if not isinstance(text, str) or len(text) > 19 or not _DECIMAL.fullmatch(text):
        remedy = 'write an integer or a quoted decimal such as "0.25" (at most 9 digits on either side)'
        raise SpecError(path, f"is {shown(value)}", remedy)
    number = Decimal(text)
    if number > most or (positive and not number):
        raise SpecError(
            path,
            f"is {text}",
            f"write a decimal {'above' if positive else 'from'} 0 {'and ' if positive else ''}up to {most}",
        )
    return number


def _deeper(value: object, levels: int) -> bool:
    """Return whether lists and objects in `value` are nested in more than `levels`."""
    if not isinstance(value, Mapping | list | tuple):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inner)


def _digits(value: object) -> object:
    """Return an integer as its digits and anything else as it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        return str(value)
    return value


def _schema_path(path: str) -> str:
    return re.sub(r"\[[0-9]+\]", "[]", path)
