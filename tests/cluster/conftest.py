"""Fixtures of the cluster tier: the cluster that these tests run inside, and what a failure keeps of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator

import pytest
from modelfleet_lab.cluster import evidence
from modelfleet_lab.cluster.access import Cluster, ClusterError


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The running cluster; where there is none the tests fail, with how to get one."""
    return Cluster.current()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of this test's own, gone after it."""
    name = f"test-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what is known at the moment of a failure, before fixtures clean up."""
    report = yield
    if report.failed:
        try:
            cluster = Cluster.current()
        except ClusterError:
            return report  # its absence is the failure
        folder = evidence.collect(cluster, f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', item.name)}-{report.when}")
        report.sections.append(("cluster", f"logs, objects, events and metrics are kept in {folder}"))
    return report
