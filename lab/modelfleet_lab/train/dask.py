"""Counts the parts on a Dask cluster that is there already.

In: the address of its scheduler, parts. Out: their sum. Next: core `estimation.training`.

This process reads the data and deals it out; each part travels to a worker, and only sums come back. Workers
therefore need this package, and neither the data nor a shared disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

from modelfleet_lab.command_line import CommandError
from modelfleet_lab.outcomes import Part
from modelfleet_lab.train.counting import fingerprint

CONNECT_SECONDS = 10.0
_AHEAD = 2
"""Parts that wait at the cluster for each of its threads."""


class Additive(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


Sums = TypeVar("Sums", bound=Additive)


class Cluster:
    """A connection to a scheduler."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.threads = sum(client.nthreads().values())

    def total(self, parts: Iterator[Part], work: Callable[[Part], Sums]) -> Sums:
        """Return the sum of `work` over the parts.

        `work` and what it refers to must be importable by name on the workers. Raise CommandError when a
        worker fails for reasons of its own, ValueError when it refuses the data.
        """
        from distributed import as_completed

        running, waiting = as_completed(loop=self._client.loop), iter(parts)

        def send() -> None:
            part = next(waiting, None)
            if part is not None:
                there = self._client.scatter(part, hash=False)
                running.add(self._client.submit(work, there, pure=False))

        for _ in range(_AHEAD * self.threads):
            send()
        total: Any = None
        for finished in running:
            self._raise(finished)
            send()
            total = finished if total is None else self._client.submit(_add, total, finished, pure=False)
        if total is None:
            raise ValueError("there is no part to count")
        self._raise(total)
        result: Sums = total.result()
        return result

    def _raise(self, future: Any) -> None:
        error = future.exception()
        if error is None:
            return
        if isinstance(error, ValueError):
            raise error
        raise CommandError(f"a Dask worker failed: {type(error).__name__}: {error}") from error


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to the scheduler at `address`; raise CommandError when that or its workers can not be used."""
    try:
        from distributed import Client
    except ImportError as error:
        raise CommandError("--dask needs distributed: pip install 'modelfleet[dask]'") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CommandError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        if not client.nthreads():
            raise CommandError(f"the Dask cluster at {address} has no workers; start some first")
        try:
            others = client.run(fingerprint)
        except ImportError as error:
            raise CommandError(f"Dask workers lack this package: {error}; install it there") from error
        own = fingerprint()
        for worker, found in others.items():
            if found != own:
                raise CommandError(
                    f"Dask worker {worker} has another version of modelfleet, with other features of a text; "
                    "install this one there"
                )
        yield Cluster(client)


def _add(left: Sums, right: Sums) -> Sums:
    return left + right
