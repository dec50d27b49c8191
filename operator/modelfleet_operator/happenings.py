"""Stage status, as news: what changed between two statuses of an object that users should be told.

In: the status that an object had and the one that was just written over it. Out: `Happening`s, pure values.
Next: `events` posts them as Kubernetes Events. A status outlives its leader and is written by compare and
swap, so that a change is told by the leader that wrote it, and not again by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from modelfleet_operator.cluster import Kind
from modelfleet_operator.cluster.fields import items, mapping, text
from modelfleet_operator.fleet_status import BINDING
from modelfleet_operator.status import PASSED_OVER

PLAN_CHANGED, SCALED = "PlanChanged", "Scaled"
"""Reasons of events that no condition has; all others are reasons of conditions or of a plan's variants."""
_LONGEST_LIST = 8
"""Changes that one message names."""

_MISSING = frozenset({"DemandMissing", "DemandIncomplete"})
_WARNED = PASSED_OVER | _MISSING | {"Drifting", "RolledBack"}
"""Reasons of conditions that hold, and yet are for users to look at."""
_PASSING = frozenset({"StartingReplicas", "Scaling", "Draining", "Advisory", "InProgress"})
"""Reasons of conditions that do not hold while the operator does what it should."""
_FLEETING = frozenset({"LedgerNotOpen", "NotRead"})
"""Reasons that every new leader passes through: neither they nor their end are news."""
_TOLD: Mapping[Kind, tuple[str, ...]] = {
    Kind.FLEET: ("Accepted", "ResolvedRefs", "Solved", "WithinBudget", "Programmed", "Stalled", "Ready"),
    Kind.POLICY: ("Accepted", "ResolvedRefs", "EstimatorReady", "WithinBudget", "Ready"),
}
"""Conditions whose changes are told, those that `Ready` repeats before it."""
_BINDING = frozenset(reason.value for reason in BINDING)

Status = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Happening:
    """`reason` is a word for programs, `message` a sentence for humans, `warning` asks them to act."""

    reason: str
    message: str
    warning: bool = False


def happenings(kind: Kind, before: Status, after: Status) -> tuple[Happening, ...]:
    """Return what is new in the status `after` of a fleet or policy; each thing once."""
    found = {(what.reason, what.message): what for what in _plan(before, after)}
    for what in _conditions(_TOLD[kind], before, after):
        found.setdefault((what.reason, what.message), what)
    return tuple(found.values())


def _conditions(told: Iterable[str], before: Status, after: Status) -> Iterator[Happening]:
    was = {text(condition, "type"): condition for condition in items(before, "conditions")}
    now = {text(condition, "type"): condition for condition in items(after, "conditions")}
    for name in told:
        old, new = was.get(name, {}), now.get(name, {})
        status, reason = text(new, "status"), text(new, "reason")
        if not new or (text(old, "status"), text(old, "reason")) == (status, reason):
            continue
        if reason in _FLEETING or (status == "True" and text(old, "reason") in _FLEETING):
            continue
        news = Happening(reason, text(new, "message"), _wrong(new) and reason not in _PASSING)
        first_word = not old and status == "True" and name == "Accepted"
        mended = _wrong(old) and text(old, "reason") not in _PASSING
        if news.warning or mended or first_word or (name == "Ready" and status != "Unknown"):
            yield news


def _wrong(condition: Mapping[str, object]) -> bool:
    bad = "True" if text(condition, "type") == "Stalled" else "False"
    return text(condition, "status") == bad or text(condition, "reason") in _WARNED


def _plan(before: Status, after: Status) -> Iterator[Happening]:
    old = {_name(item): item for item in items(mapping(before, "plan"), "variants")}
    new = {_name(item): item for item in items(mapping(after, "plan"), "variants")}
    changes = []
    for name, item in new.items():
        was, reason = old.get(name, {}), text(item, "reason")
        counts = text(was, "desired") or "0", text(item, "desired")
        if counts[0] != counts[1]:
            changes.append(f"{name} {counts[0]} -> {counts[1]} ({reason})")
        if reason in _BINDING and text(was, "reason") != reason:
            yield Happening(reason, f"{name}: {text(item, 'message')}", warning=True)
    changes += [f"{name} {text(old[name], 'desired')} -> none" for name in old.keys() - new.keys() if new]
    if changes:
        plan = mapping(after, "plan")
        more = f" and {len(changes) - _LONGEST_LIST} more" if len(changes) > _LONGEST_LIST else ""
        message = (
            f"replicas: {', '.join(changes[:_LONGEST_LIST])}{more}; the plan uses {text(plan, 'gpus')} GPUs "
            f"and costs {text(plan, 'hourlyCost')} USD per hour"
        )
        yield Happening(PLAN_CHANGED, message)


def _name(variant: Mapping[str, object]) -> str:
    return f"{text(variant, 'model')}/{text(variant, 'variant')}"
