"""Says in words what is better and what is not, by intervals alone.

In: `Findings`. Out: verdicts and sentences. Next: `page`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from modelfleet_lab.report.findings import Findings
from modelfleet_lab.report.json_node import Figure
from modelfleet_lab.report.names import HULL, ORACLE, OURS, own, words

BUDGETS = {"r25": "25 %", "r37": "37 %", "r50": "50 %"}
"""Relative quality at these shares of the best single model's cost."""


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    OPEN = "open"
    """The interval holds 0, or there is none."""


@dataclass(frozen=True, slots=True)
class Against:
    """Ours against one policy."""

    name: str
    own: bool
    budgets: Mapping[str, Figure]
    """Points of relative quality that ours is ahead, by `BUDGETS`."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return tuple(verdict(figure) for figure in self.budgets.values())


def verdict(difference: Figure) -> Verdict:
    """Return whether ours is better where `difference` is ours minus another's."""
    if difference.low > 0:
        return Verdict.BETTER
    return Verdict.WORSE if difference.high < 0 else Verdict.OPEN


def against(found: Findings) -> tuple[Against, ...]:
    """Return ours against every policy but the oracle, random mixes first."""
    names = sorted((name for name in found.versus if name != ORACLE), key=lambda name: name != HULL)
    return tuple(
        Against(
            name=words(name),
            own=own(name),
            budgets={key: _points(found.versus[name][key]) for key in BUDGETS if key in found.versus[name]},
        )
        for name in names
    )


def sentences(found: Findings) -> tuple[str, ...]:
    """Return what can be said of ours, what can not, and what speaks against it."""
    others = [one for one in against(found) if not one.own and one.budgets]
    better = [one.name for one in others if set(one.verdicts) == {Verdict.BETTER}]
    worse = [one.name for one in others if Verdict.WORSE in one.verdicts]
    rest = [one.name for one in others if one.name not in better and one.name not in worse]
    ours = found.policies[OURS]
    said = [_cheaper(ours, found.single)]
    if HULL in found.policies:
        said += _mixed(found.policies[HULL])
    if better:
        said.append(
            f"Better at every budget of the table below, with 95 % intervals above 0: than {_list(better)}."
        )
    if rest:
        said.append(f"Not shown to be better at every budget, nor worse at any: against {_list(rest)}.")
    if worse:
        said.append(f"Worse, with an interval below 0 at one budget or more: than {_list(worse)}.")
    if found.unseen is not None:
        tasks = [verdict(task.gain) for task in found.unseen.tasks]
        said.append(
            f"On tasks left out of training it is {100 * found.unseen.mean:+.1f} points against the best "
            f"single model of the other tasks on average, and {100 * found.unseen.worst:+.1f} on the worst; "
            f"of {len(tasks)} tasks {tasks.count(Verdict.BETTER)} are better, "
            f"{tasks.count(Verdict.WORSE)} worse, the rest open."
        )
    if found.capacity is not None:
        for tightness, lines in found.capacity.tight.items():
            rivals = [line for line in lines if not own(line.name)]
            ahead, lost = (
                [words(line.name) for line in rivals if verdict(line.behind) is wanted]
                for wanted in (Verdict.BETTER, Verdict.WORSE)
            )
            said.append(
                f"With favourites asked for {tightness} times over, at equal cost: better than "
                f"{_list(ahead) or 'none'}; worse than {_list(lost) or 'none'}."
            )
    return tuple(said)


def _cheaper(ours: Mapping[str, Figure], single: str) -> str:
    if not ours["r100"].known:
        return f"{single}, the best single model of the past, costs nothing: no share of that can be spent."
    reached = [
        f"{share} % of its quality for {_share(figure)} of its cost"
        for share in (95, 98, 100)
        if (figure := ours[f"k{share}"]).known
    ]
    if not reached:
        return (
            f"modelfleet does not reach 95 % of the quality of {single}, the best single model, at any cost."
        )
    missed = [f"{share} %" for share in (95, 98, 100) if not ours[f"k{share}"].known]
    end = f" It does not reach {_list(missed)}." if missed else ""
    return f"Against {single}, the best single model of the past, modelfleet reaches {_list(reached)}.{end}"


def _mixed(hull: Mapping[str, Figure]) -> list[str]:
    """Return what the same takes with nothing but the models' means, which is to be taken off any claim."""
    reached = [f"{_share(figure)} for {share} %" for share in (95, 98) if (figure := hull[f"k{share}"]).known]
    return [f"Random mixes of constant models take {_list(reached)}."] if reached else []


def _share(figure: Figure) -> str:
    value, low, high = (100 * part for part in (figure.value, figure.low, figure.high))
    return f"{value:.1f} %" + (f" ({low:.1f} .. {high:.1f})" if low <= high else "")


def _points(figure: Figure) -> Figure:
    return Figure(100 * figure.value, 100 * figure.low, 100 * figure.high)


def _list(words: Iterable[str]) -> str:
    *most, last = [*words] or [""]
    return f"{', '.join(most)} and {last}" if most else last
