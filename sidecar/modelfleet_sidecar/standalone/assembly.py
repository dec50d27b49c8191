"""Composition of a sidecar without an operator: file, state, leader, and what goes on beside its lease.

In: settings. Out: the leader for the lease client, the folder of its journal, `run` and `close` for `app`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from modelfleet_sidecar.standalone.leader import Ledgers, LocalLeader, MemoryLedgers
from modelfleet_sidecar.standalone.learning import Learning
from modelfleet_sidecar.standalone.manifests import ManifestError
from modelfleet_sidecar.standalone.pricing import Pricing
from modelfleet_sidecar.standalone.state import StateError, StateFolder
from modelfleet_sidecar.standalone.watching import Watching, load

log = logging.getLogger(__name__)


class StandaloneError(Exception):
    """It can not start; `setting` is the one to change."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(problem)
        self.setting = setting


class Standalone:
    """What an operator would do, for this process."""

    def __init__(
        self,
        config: Path,
        folder: Path | None,
        *,
        clock: Callable[[], float],
        refused: Callable[[str], None],
    ) -> None:
        """`folder`: of the state; None: it ends with the process. Raises StandaloneError."""
        try:
            declared = load(config)
        except ManifestError as error:
            raise StandaloneError("config", str(error)) from error
        try:
            self.state = StateFolder(folder) if folder is not None else None
        except StateError as error:
            raise StandaloneError("state", str(error)) from error
        ledgers: Ledgers = self.state if self.state is not None else MemoryLedgers()
        self.leader = LocalLeader(
            declared,
            epoch=self.state.start if self.state is not None else 1,
            ledgers=ledgers,
            clock=clock,
            wall_clock=_utc,
        )
        self._learning = Learning(self.leader, state=self.state, clock=clock, wall_clock=time.time)
        self._pricing = Pricing(self.leader, wall_clock=_utc)
        self._watching = Watching(config, leader=self.leader, learning=self._learning, refused=refused)
        if self.state is None:
            log.warning(
                "nothing is kept: a restart forgets what was spent of the budget and what was learned; set "
                "MODELFLEET_STATE to a folder"
            )

    @property
    def journal(self) -> Path | None:
        """The folder for the lease's journal."""
        return self.state.journal if self.state is not None else None

    async def run(self) -> None:
        """Grant, price, learn and follow the files until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for part in (self.leader, self._pricing, self._learning, self._watching):
                tasks.create_task(part.run())

    async def close(self) -> None:
        """Keep everything, once the lease was given back and `run` has ended."""
        await self.leader.close()
        await self._learning.keep()
        if self.state is not None:
            self.state.close()


def _utc() -> datetime:
    return datetime.now(UTC)
