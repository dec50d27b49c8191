"""Stages assign and learn: estimators and judges that users install beside the sidecar, found by name.

In: the setting `MODELFLEET_ESTIMATOR` or a policy's `judge.plugin`, the entry points of installed
distributions. Out: a `Plugin` or a `JudgePlugin`, or none. Next: `estimates` or `judge` asks it, and does
without where it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from modelfleet_core.estimation.forecast import Estimator

from modelfleet_sidecar.settings import SettingsError, variable

log = logging.getLogger(__name__)

GROUP = "modelfleet.estimators"
JUDGES = "modelfleet.judges"
BUILT_IN = "default"


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    name: str
    estimator: Estimator

    @property
    def version(self) -> str:
        """Return what its estimates are known by: nothing that was learned on another base corrects them."""
        return f"plugin:{self.name}"


def load_plugin(name: str, failed: Callable[[], None]) -> Plugin | None:
    """Return the estimator that is installed as `name`; None: the sidecar's own is asked for, or it can not
    be made, which `failed` is told. Raises SettingsError where nothing of that name is installed."""
    if name == BUILT_IN:
        return None
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        installed = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "no other"
        raise SettingsError(
            f"{variable('estimator')}={name!r} is not installed here; there is {BUILT_IN!r} and {installed}"
        )
    try:
        estimator = found[0].load()()
    except Exception:
        log.exception("the estimator %s can not be made; the sidecar's own estimates count instead", name)
        failed()
        return None
    return Plugin(name, estimator)


class JudgePlugin(Protocol):
    """A judge that users install. It is called in a thread, for one answer at a time."""

    def score(self, question: str, answer: str) -> float | None:
        """Return how well the answer serves the question, 0 to 1; None: it can not say."""
        ...


class JudgePlugins:
    """Judges by name, made when a policy first names them."""

    def __init__(self) -> None:
        self._made: dict[str, JudgePlugin | None] = {}

    def find(self, name: str) -> JudgePlugin | None:
        """Return the judge that is installed as `name`; None: there is none, or it can not be made."""
        if name not in self._made:
            self._made[name] = _make(name)
        return self._made[name]


def _make(name: str) -> JudgePlugin | None:
    found = [point for point in entry_points(group=JUDGES) if point.name == name]
    if not found:
        log.error("the policy's judge %r is not installed here; nothing is scored", name)
        return None
    try:
        made: JudgePlugin = found[0].load()()
    except Exception:
        log.exception("the judge %s can not be made; nothing is scored", name)
        return None
    return made
