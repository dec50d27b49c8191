"""Stage assign: estimators that users install beside the sidecar, found by name.

In: the setting `MODELFLEET_ESTIMATOR`, the entry points of installed distributions. Out: a `Plugin`, or none.
Next: `estimates` asks it, and does without where it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from modelfleet_core.estimation.forecast import Estimator

from modelfleet_sidecar.settings import SettingsError, variable

log = logging.getLogger(__name__)

GROUP = "modelfleet.estimators"
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
