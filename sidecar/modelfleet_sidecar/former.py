"""Stage publish: a lease whose money is journalled, and the end of former starts that crashed with some.

In come the lives that `journal.py` found; out go reports under their own identity, over a short stream each,
until the leader has acknowledged that all is settled or given back. Then the journal is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Life
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES

from modelfleet_sidecar.journal import Journal, former_lives, machine_boot
from modelfleet_sidecar.lease import LeaseClient, boot_clock
from modelfleet_sidecar.lease_stream import Leader
from modelfleet_sidecar.operator_access import OperatorAccess
from modelfleet_sidecar.settings import SettingsError, variable

log = logging.getLogger(__name__)


class JournalledLease(LeaseClient):
    """A lease of this start of the sidecar; `run` also finishes the starts before it."""

    def __init__(
        self,
        leader: Leader | OperatorAccess | str,
        sidecar: SidecarId,
        folder: Path,
        *,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Raises SettingsError if nothing can be written in `folder`."""
        try:
            machine = machine_boot()
            self._journal = Journal(folder, Life(sidecar, machine))
            self._former = list(former_lives(folder, sidecar, machine))
        except OSError as error:
            raise SettingsError(
                f"{variable('journal')}={folder} can not be used: {error}; mount an emptyDir there"
            ) from error
        self._folder = folder
        holding = Holding(sidecar, record=self._journal.record)
        super().__init__(leader, sidecar, clock=clock, holding=holding)

    async def run(self) -> None:
        finishing = asyncio.create_task(self._finish_former())
        try:
            await super().run()
        finally:
            finishing.cancel()
            await asyncio.wait((finishing,))

    async def drain(self, timeout: float = 5.0) -> bool:
        returned = await super().drain(timeout)
        if returned:
            self._journal.delete()
        else:
            self._journal.close()
        return returned

    async def _finish_former(self) -> None:
        """Finish one start after the other; each takes until an operator answers."""
        for life in self._former:
            unsettled = len(life.unsettled)
            try:
                await self._finish(life)
            except Exception:
                log.exception("start %s of this pod can not be finished", life.sidecar.boot)
            else:
                log.info(
                    "start %s of this pod is finished: %d requests that it left unsettled count at their "
                    "reserve, the rest went back",
                    life.sidecar.boot,
                    unsettled,
                )

    async def _finish(self, life: Life) -> None:
        now = self.now()
        journal = Journal(self._folder, life)
        holding = Holding.finishing(life, now, settles_at=now + UPSTREAM_NOTICES, record=journal.record)
        client = LeaseClient(self.leader, life.sidecar, clock=self.now, holding=holding)
        parts = (asyncio.create_task(client.finish()), asyncio.create_task(client.run()))
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
            journal.delete()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            journal.close()
