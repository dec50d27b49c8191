"""Fixtures of the integration tier: clusters under test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.clusters import ClusterUnderTest, EmbeddedUnderTest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", ("embedded",), indirect=True)


@pytest_asyncio.fixture
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[ClusterUnderTest]:
    """One adapter with a namespace of its own."""
    under_test = EmbeddedUnderTest()
    yield under_test
    await under_test.close()
