"""Where the product runs: the operator's cluster in memory, or a real Kubernetes control plane.

In: manifests. Out: the running product, on either. Next: `product` replays the scenario through it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from modelfleet_lab.demo.children import Children
from modelfleet_lab.demo.manifests import Manifest, applications
from modelfleet_lab.demo.programs import Running, operator_and_sidecars, serving
from modelfleet_lab.demo.scenario import SLACK, WARM_UP, Scenario

PERIOD = 3600.0
READY_IN = 8.0
"""Seconds that operator and sidecars are expected to need until traffic can start."""
LATE = 3.0
"""Seconds that the start may be late before the budget's period would end within the run."""
ATTEMPTS = 3


class LateStartError(RuntimeError):
    """Operator and sidecars took so long that the run would reach into the next budget period."""


class Host(Protocol):
    """A cluster that the product can run on."""

    @property
    def words(self) -> str:
        """What it is, for the report."""
        ...

    def limit(self, scenario: Scenario) -> float:
        """Return the policy's limit of the budget's hour, in USD."""
        ...

    def running(
        self, scenario: Scenario, manifests: Sequence[Manifest], folder: Path, children: Children
    ) -> AbstractAsyncContextManager[Running]:
        """Run the product on `manifests` while the context lasts; entered once it serves."""
        ...


class EmbeddedHost:
    """The operator's cluster in memory. Its clock is shifted so that the budget's hour ends with the run."""

    words = (
        "on a cluster in memory whose pods are local processes; the operator's clock is shifted so that the "
        f"budget's hour ends {SLACK:g} s after the last arrival"
    )

    def limit(self, scenario: Scenario) -> float:
        return scenario.limit

    @contextlib.asynccontextmanager
    async def running(
        self, scenario: Scenario, manifests: Sequence[Manifest], folder: Path, children: Children
    ) -> AsyncIterator[Running]:
        path = write_manifests(manifests, folder)
        ready_in = READY_IN
        for _ in range(ATTEMPTS):
            begun = time.time()
            end = begun + ready_in + WARM_UP + scenario.duration + SLACK
            settings = {
                "MODELFLEET_CLUSTER": "embedded",
                "MODELFLEET_MANIFESTS": str(path),
                "MODELFLEET_LOGS": str(folder / "pods"),
                "MODELFLEET_CLOCK_OFFSET": f"{-(end % PERIOD):.3f}",
            }
            async with operator_and_sidecars(children, settings, applications()) as running:
                await serving(running, children)
                took = time.time() - begun
                if took <= ready_in + LATE:
                    yield running
                    return
            ready_in = took + 1.0
        raise LateStartError(
            f"operator and sidecars took {took:.0f} s to start, and longer each time; free the machine"
        )


def write_manifests(manifests: Sequence[Manifest], folder: Path) -> Path:
    """Write `manifests` as one YAML stream (JSON is YAML); return the file."""
    path = folder / "manifests.yaml"
    path.write_text("---\n".join(json.dumps(m, indent=1) + "\n" for m in manifests), encoding="utf-8")
    return path
