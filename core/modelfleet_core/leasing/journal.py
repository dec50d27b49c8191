"""Stage forward, for leases: what one start of a sidecar did with its accounts, as lines of text.

In come entries as `holding.py` makes them, each before it takes effect outside; out go lines to append to a
file, and from such lines a `Life`: what the start was granted, spent and returned, and what it left
unsettled. The sidecar's `journal.py` moves the lines. They hold names and amounts, no prompts.

A line is a JSON list whose first item says what it is:

    ["life", format, namespace, pod, uid, boot, machine]        the first line
    ["account", account, granted, spent, returned]              totals so far, also where a file is compacted
    ["granted", account, granted]
    ["rate", limit, at, units]                                  units taken up to then, also where compacted
    ["taken", reservation, endpoint, {account: amount}, {limit: units}, at]
    ["ended", reservation, {account: charged}]
    ["reported", sequence, {account: returned}]
    ["over", account]                                           the period ended and nothing is left in it
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.leasing.rates import MINUTE
from modelfleet_core.values import AccountId, EndpointUrl

FORMAT = 1
MAX_LINE = 1 << 20

_encode = json.JSONEncoder(separators=(",", ":")).encode
_text: Callable[[str], str] = lru_cache(256)(_encode)
"""Accounts and endpoints as JSON; there are few."""


class JournalError(ValueError):
    """A journal that can not be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Granted:
    account: AccountId
    granted: int


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A request reserved this."""

    reservation: int
    endpoint: EndpointUrl
    amounts: Mapping[AccountId, int]
    rates: Mapping[EndpointUrl, int]
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A request was settled or cancelled."""

    reservation: int
    charged: Mapping[AccountId, int]


@dataclass(frozen=True, slots=True)
class Reported:
    sequence: int
    returned: Mapping[AccountId, int]
    """Totals that changed."""


@dataclass(frozen=True, slots=True)
class Over:
    """An account is not listed any more."""

    account: AccountId


Entry = Granted | TakenUp | Ended | Reported | Over


@dataclass(slots=True)
class LivedAccount:
    granted: int = 0
    spent: int = 0
    returned: int = 0


@dataclass(slots=True)
class UnitsTaken:
    """Units of one limit that were taken within a second, the last ones `at`."""

    at: float
    units: int


@dataclass(slots=True)
class Life:
    """One start of a sidecar, as far as its journal tells. Times are seconds on `machine`'s boot clock."""

    sidecar: SidecarId
    machine: str
    """Which boot of which machine: on another one the journal's last lines may be lost."""
    accounts: dict[AccountId, LivedAccount] = field(default_factory=dict)
    unsettled: dict[int, TakenUp] = field(default_factory=dict)
    rates: dict[EndpointUrl, dict[int, UnitsTaken]] = field(default_factory=dict)
    """Units of the last minute by limit and second, the oldest first; also of requests that ended."""
    reports: int = 0

    def add(self, entry: Entry) -> None:
        """Take over what happened next."""
        match entry:
            case Granted(account, granted):
                self.accounts.setdefault(account, LivedAccount()).granted = granted
            case TakenUp(reservation, _, _, rates, at):
                self.unsettled[reservation] = entry
                for limit, units in rates.items():
                    self.add_units(limit, at, units)
            case Ended(reservation, charged):
                del self.unsettled[reservation]
                for account, amount in charged.items():
                    self.accounts[account].spent += amount
            case Reported(sequence, returned):
                self.reports = sequence
                for account, total in returned.items():
                    self.accounts[account].returned = total
            case Over(account):
                del self.accounts[account]

    def add_units(self, limit: EndpointUrl, at: float, units: int) -> None:
        """Count units taken of a limit by the minute; times must not fall."""
        taken = self.rates.setdefault(limit, {})
        same = taken.get(int(at))
        if same is not None:
            same.at, same.units = at, same.units + units
            return
        for second in [second for second, old in taken.items() if old.at + MINUTE <= at]:
            del taken[second]
        taken[int(at)] = UnitsTaken(at, units)

    def lines(self) -> Iterator[str]:
        """Yield the shortest journal that says the same."""
        who = self.sidecar
        yield _line(["life", FORMAT, who.namespace, who.pod, who.uid, who.boot, self.machine])
        for account, lived in self.accounts.items():
            yield _line(["account", account, lived.granted, lived.spent, lived.returned])
        for limit, seconds in self.rates.items():
            for units in seconds.values():
                yield _line(["rate", limit, units.at, units.units])
        for taken in self.unsettled.values():
            yield line_of(replace(taken, rates={}))
        yield line_of(Reported(self.reports, {}))


def line_of(entry: Entry) -> str:
    """Return an entry as a line, its end included."""
    match entry:
        case Granted(account, granted):
            return _line(["granted", account, granted])
        case TakenUp(reservation, endpoint, amounts, rates, at):  # these two are written for each request
            return f'["taken",{reservation},{_text(endpoint)},{_counts(amounts)},{_counts(rates)},{at!r}]\n'
        case Ended(reservation, charged):
            return f'["ended",{reservation},{_counts(charged)}]\n'
        case Reported(sequence, returned):
            return _line(["reported", sequence, dict(returned)])
        case Over(account):
            return _line(["over", account])


def _counts(amounts: Mapping[Any, int]) -> str:
    return f"{{{','.join([f'{_text(name)}:{amount}' for name, amount in amounts.items()])}}}"


def life_from(lines: Iterable[str]) -> Life:
    """Return what a journal tells. A last line without its end was cut off while it was written: what it
    announced did not happen yet. Anything else that is no line of ours raises `JournalError`."""
    life: Life | None = None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            life = _read(life, json.loads(line) if len(line) <= MAX_LINE else None)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise JournalError(f"line {number} is not one of a journal ({error!r}): {line[:80]!r}") from error
    if life is None:
        raise JournalError("it has no first line")
    return life


def _read(life: Life | None, items: Any) -> Life:
    kind, *rest = items
    if kind == "life":
        version, namespace, pod, uid, boot, machine = map(str, rest)
        if life is not None or version != str(FORMAT):
            raise ValueError(f"it is of format {version}, known is {FORMAT}, or not the first line")
        return Life(SidecarId(namespace, pod, uid, boot), machine)
    if life is None:
        raise ValueError("the first line is missing")
    match kind:
        case "account":
            account, *totals = rest
            granted, spent, returned = map(_count, totals)
            life.accounts[AccountId(str(account))] = LivedAccount(granted, spent, returned)
        case "granted":
            account, granted = rest
            life.add(Granted(AccountId(str(account)), _count(granted)))
        case "rate":
            limit, at, units = rest
            life.add_units(EndpointUrl(str(limit)), float(at), _count(units))
        case "taken":
            number, endpoint, amounts, rates, at = rest
            where = EndpointUrl(str(endpoint))
            limits = {EndpointUrl(limit): _count(units) for limit, units in rates.items()}
            life.add(TakenUp(_count(number), where, _amounts(life, amounts), limits, float(at)))
        case "ended":
            number, charged = rest
            life.add(Ended(_count(number), _amounts(life, charged)))
        case "reported":
            sequence, returned = rest
            life.add(Reported(_count(sequence), _amounts(life, returned)))
        case "over":
            (account,) = rest
            life.add(Over(AccountId(str(account))))
        case _:
            raise ValueError(f"{kind!r} is not known")
    return life


def _amounts(life: Life, amounts: Mapping[str, object]) -> dict[AccountId, int]:
    found = {AccountId(account): _count(amount) for account, amount in amounts.items()}
    unknown = found.keys() - life.accounts.keys()
    if unknown:
        raise ValueError(f"nothing was granted in {min(unknown)}")
    return found


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no amount")
    return value


def _line(items: list[object]) -> str:
    return _encode(items) + "\n"
