"""Fixtures of the integration tier: a real control plane, and clusters under test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from modelfleet_lab.controlplane import binaries, namespace, start
from support.clusters import ClusterUnderTest, EmbeddedUnderTest
from support.control_plane import KubernetesUnderTest, Plane, running_plane

ADAPTERS = ("embedded", "kubernetes")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Enter the network namespace before any test starts threads, which would stay in the old one."""
    if any({"plane", "bare_plane", "subject"} & set(getattr(item, "fixturenames", ())) for item in items):
        namespace.enter()


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A real API server, etcd and controller-manager for the whole session; its failure fails the tests."""
    with running_plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="session")
def bare_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[start.ControlPlane]:
    """Another control plane, with no node and nothing of the project, for what Helm installs."""
    programs = binaries.find_or_build(lambda line: print(line, file=sys.__stderr__, flush=True))
    with start.running(programs, tmp_path_factory.mktemp("bare-plane")) as control_plane:
        yield control_plane


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", ADAPTERS, indirect=True)


@pytest_asyncio.fixture
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[ClusterUnderTest]:
    """One adapter with a namespace of its own."""
    under_test: ClusterUnderTest
    if request.param == "embedded":
        under_test = EmbeddedUnderTest()
    else:
        under_test = await KubernetesUnderTest.make(request.getfixturevalue("plane"))
    yield under_test
    await under_test.close()
