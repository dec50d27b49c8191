"""Stage publish: the one address behind the capacity Service is the leader's.

In come a Service without selector and this pod's address; out goes its EndpointSlice, written as soon as
this process leads and again whenever it is not as written. gRPC knows no redirect, so a Service that leads to
every operator would send sidecars to one that does not lead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, Protocol

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import ClusterError, Conflict, LeaderEndpoint, NotFound, Rejected

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between looks at the slice, and between attempts to write it."""
ATTEMPTS = 3


class Endpoints(Protocol):
    """What this module asks of the cluster."""

    async def read_endpoint(self, service: ObjectKey) -> LeaderEndpoint: ...
    async def write_endpoint(self, endpoint: LeaderEndpoint) -> LeaderEndpoint: ...


class CapacityEndpoint:
    """Keeps the slice of `service` at `address`, `port` while `leads`.

    `written` is called with whether the Service leads here, at every change.
    """

    def __init__(
        self,
        cluster: Endpoints,
        service: ObjectKey,
        address: str,
        port: int,
        *,
        epoch: int,
        leads: Callable[[], bool],
        written: Callable[[bool], None] = lambda whether: None,
        interval: float = INTERVAL,
    ) -> None:
        self._cluster = cluster
        self._service = service
        self._address = address
        self._port = port
        self._epoch = epoch
        self._leads = leads
        self._written = written
        self._interval = interval
        self._trouble = ""
        self._holds: bool | None = None

    async def run(self) -> NoReturn:
        """Write and mend until cancelled."""
        while True:
            trouble = await self._attempt(ready=True)
            if trouble and trouble != self._trouble:
                log.error("sidecars can not find this leader: %s", trouble)
            self._trouble = trouble
            if self._holds is not (not trouble):
                self._holds = not trouble
                self._written(self._holds)
            await asyncio.sleep(self._interval)

    async def withdraw(self) -> None:
        """Let the Service lead nowhere, where it leads here."""
        if self._holds and (trouble := await self._attempt(ready=False)):
            log.warning("the capacity Service still leads to this process, which ends: %s", trouble)

    async def _attempt(self, *, ready: bool) -> str:
        """Return what stands in the way; empty: the slice is as it should be."""
        for _ in range(ATTEMPTS):
            try:
                return await self._write(ready)
            except Conflict:
                continue
            except NotFound:
                return (
                    f"there is no Service {self._service}: create it, without selector, or set "
                    "--capacity-service to its name"
                )
            except Rejected as error:
                return (
                    f"{error}: the operator's Role needs `get` on the Service {self._service}, and `create`, "
                    "`get` and `update` on endpointslices.discovery.k8s.io"
                )
            except ClusterError as error:
                return str(error)
        return f"the EndpointSlice of Service {self._service} is written by someone else all the time"

    async def _write(self, ready: bool) -> str:
        """Compare and swap, so that a write which a former leader has under way fails."""
        found = await self._cluster.read_endpoint(self._service)
        wanted = replace(found, port=self._port, addresses=(self._address,), ready=ready, epoch=self._epoch)
        if found.resource_version is not None and wanted == found:
            return ""
        if not self._leads():
            return "this process is not sure to hold the Lease"
        await self._cluster.write_endpoint(wanted)
        log.info(
            "the capacity Service leads %s",
            f"to {self._address}" if ready else "nowhere",
            extra={"service": str(self._service), "epoch": self._epoch},
        )
        return ""
