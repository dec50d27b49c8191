"""The capacity Service leads to the leader and to nobody else, whoever meddles with its slice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from modelfleet_core.values import ObjectKey
from modelfleet_operator.capacity_endpoint import CapacityEndpoint
from modelfleet_operator.cluster import ClusterError, Forbidden, LeaderEndpoint, Unavailable
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.cluster.serving import endpoint_of, slice_object

SERVICE = ObjectKey("system", "capacity")
MANIFEST = {
    "kind": "Service",
    "metadata": {"name": "capacity", "namespace": "system"},
    "spec": {"ports": [{"name": "capacity", "port": 7443}]},
}


class Watched(EmbeddedCluster):
    """A cluster in memory whose answers can fail and whose reads wake the test."""

    def __init__(self, *, service: bool = True) -> None:
        super().__init__([MANIFEST] if service else [])
        self.error: ClusterError | None = None
        self.before_write: Callable[[], None] = lambda: None
        self.reads = 0
        self._turn = asyncio.Condition()

    async def read_endpoint(self, service: ObjectKey) -> LeaderEndpoint:
        self.reads += 1
        async with self._turn:
            self._turn.notify_all()
        if self.error is not None:
            raise self.error
        return await super().read_endpoint(service)

    async def write_endpoint(self, endpoint: LeaderEndpoint) -> LeaderEndpoint:
        self.before_write()
        return await super().write_endpoint(endpoint)

    async def looked(self, times: int = 2) -> None:
        """Wait until the slice was looked at so often again: what the look before it did is then done."""
        until = self.reads + times
        async with self._turn, asyncio.timeout(10):
            await self._turn.wait_for(lambda: self.reads >= until)

    async def now(self) -> LeaderEndpoint:
        return await EmbeddedCluster.read_endpoint(self, SERVICE)


class Leading:
    def __init__(self, cluster: Watched, *, address: str = "10.0.0.1", epoch: int = 3) -> None:
        self.leads = True
        self.told: list[bool] = []
        self.endpoint = CapacityEndpoint(
            cluster,
            SERVICE,
            address,
            7443,
            epoch=epoch,
            leads=lambda: self.leads,
            written=self.told.append,
            interval=0.001,
        )


@asynccontextmanager
async def running(leading: Leading) -> AsyncIterator[None]:
    task = asyncio.create_task(leading.endpoint.run())
    yield
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def test_the_service_leads_to_the_leader_at_once_and_once_written_is_left_alone() -> None:
    cluster = Watched()
    leading = Leading(cluster)
    async with running(leading):
        await cluster.looked()
        first = await cluster.now()
        await cluster.looked(5)
    assert (first.addresses, first.ready, first.port, first.epoch) == (("10.0.0.1",), True, 7443, 3)
    assert await cluster.now() == first
    assert leading.told == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ("10.6.6.6",)},
        {"addresses": ("10.0.0.1", "10.6.6.6")},
        {"ready": False},
        {"port": 1},
        {"epoch": 99},
        {"port_name": "other"},
        {"service_uid": "another"},
    ],
)
async def test_what_someone_changed_is_mended(change: dict[str, object]) -> None:
    cluster = Watched()
    async with running(Leading(cluster)):
        await cluster.looked()
        good = await cluster.now()
        await cluster.write_endpoint(replace(good, **change))  # type: ignore[arg-type]
        await cluster.looked(3)
        mended = await cluster.now()
    assert replace(mended, resource_version=None) == replace(good, resource_version=None)
    assert mended.resource_version != good.resource_version


async def test_a_deleted_slice_comes_back() -> None:
    cluster = Watched()
    async with running(Leading(cluster)):
        await cluster.looked()
        cluster.delete("EndpointSlice", ObjectKey("system", "capacity-leader"))
        await cluster.looked(3)
        assert (await cluster.now()).addresses == ("10.0.0.1",)


async def test_a_slice_that_another_writes_at_the_same_moment_is_read_anew() -> None:
    cluster = Watched()
    others: list[LeaderEndpoint] = []

    def meddle() -> None:
        cluster.before_write = lambda: None
        cluster.apply(slice_object(replace(others[0], addresses=("10.6.6.6",), port=1)))

    others.append(await cluster.now())
    cluster.before_write = meddle
    leading = Leading(cluster)
    async with running(leading):
        await cluster.looked(3)
        assert (await cluster.now()).addresses == ("10.0.0.1",)
    assert leading.told == [True]


async def test_who_does_not_lead_writes_nothing() -> None:
    cluster = Watched()
    leading = Leading(cluster)
    leading.leads = False
    async with running(leading):
        await cluster.looked(3)
    assert (await cluster.now()).addresses == ()
    assert leading.told == [False]
    await leading.endpoint.withdraw()
    assert (await cluster.now()).resource_version is None


async def test_a_successor_takes_over_and_its_predecessor_can_not_write_any_more() -> None:
    cluster = Watched()
    old, new = Leading(cluster, epoch=3), Leading(cluster, address="fd00::2", epoch=4)
    async with running(old):
        await cluster.looked()
    old.leads = False
    cluster.delete("EndpointSlice", ObjectKey("system", "capacity-leader"))  # its family can not change
    async with running(new):
        await cluster.looked()
        await old.endpoint.withdraw()
        assert (await cluster.now()).addresses == ("fd00::2",)
        assert ((await cluster.now()).ready, (await cluster.now()).epoch) == (True, 4)


async def test_a_clean_stop_leaves_no_address_behind() -> None:
    cluster = Watched()
    leading = Leading(cluster)
    async with running(leading):
        await cluster.looked()
    await leading.endpoint.withdraw()
    gone = await cluster.now()
    assert (gone.addresses, gone.ready, gone.epoch) == (("10.0.0.1",), False, 3)
    assert gone.resource_version is not None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Unavailable("the API server is away"), "is away"),
        (Forbidden("User x cannot update endpointslices"), "needs `get` on the Service system/capacity"),
    ],
)
async def test_what_stands_in_the_way_is_told_once_and_overcome(
    error: ClusterError, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Watched()
    cluster.error = error
    leading = Leading(cluster)
    async with running(leading):
        await cluster.looked(4)
        cluster.error = None
        await cluster.looked()
    assert [says in record.message for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert leading.told == [False, True]


async def test_a_missing_service_is_named(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Watched(service=False)
    leading = Leading(cluster)
    async with running(leading):
        await cluster.looked()
        cluster.apply(MANIFEST)
        await cluster.looked(3)
    assert "there is no Service system/capacity: create it" in caplog.text
    assert leading.told == [False, True]


def test_a_slice_without_the_services_ownership_is_not_as_written() -> None:
    service = {**MANIFEST, "metadata": {**MANIFEST["metadata"], "uid": "u"}}  # type: ignore[dict-item]
    wanted = LeaderEndpoint(SERVICE, "u", "capacity", 7443, ("10.0.0.1",), True, 2, "7")
    assert endpoint_of(service, slice_object(wanted)) == wanted
    for other in ("", "another"):
        found = endpoint_of(service, slice_object(replace(wanted, service_uid=other)))
        assert found != wanted
        assert found.service_uid == "u"
