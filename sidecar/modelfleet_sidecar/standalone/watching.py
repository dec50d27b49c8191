"""Stage spec, without an operator: the files in use now, read anew when they change.

In: the file of manifests, and the estimator's beside it. Out: what they say, to leader and learning, under
traffic. A file that can not be used changes nothing: the last good one stays, and log and metric say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from modelfleet_core.estimation.artifact import ArtifactError
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.references import named_in_vain

from modelfleet_sidecar.standalone.leader import LocalLeader
from modelfleet_sidecar.standalone.learning import Learning, read_base
from modelfleet_sidecar.standalone.manifests import MOST_BYTES, Declared, ManifestError, read_manifests

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between looks at the files."""

Look = tuple[int, int, int] | None
"""Inode, time of change and size: an editor, a `mv` or a ConfigMap changes at least one. None: no file."""


def load(path: Path) -> Declared:
    """Return what a file declares. Raises ManifestError."""
    try:
        with path.open("rb") as file:
            return read_manifests(file.read(MOST_BYTES + 1))
    except OSError as error:
        raise ManifestError(f"{path} can not be read ({error.strerror or error})") from error


def look_at(path: Path | None) -> Look:
    """Return what tells one content of a file from another."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Watching:
    """Follows the files of one sidecar."""

    def __init__(
        self, path: Path, *, leader: LocalLeader, learning: Learning, refused: Callable[[str], None]
    ) -> None:
        """`path` was read just now; `refused` hears the kind of each file that can not be used: `manifests`
        or `estimator`."""
        self._path = path
        self._leader = leader
        self._learning = learning
        self._refused = refused
        self._seen = look_at(path)
        self._refuses = False
        """Whether the file is such now that it can not be used."""
        self._estimator: Path | None = None
        self._estimator_seen: Look = None
        _tell_unknown(leader.declared)

    async def run(self) -> NoReturn:
        """Look at the files until cancelled."""
        await self._load_estimator()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look()

    async def look(self) -> None:
        """Take over what changed. Files are read in a thread, since requests go on meanwhile."""
        seen = look_at(self._path)
        if seen != self._seen:
            self._seen = seen
            await self._load_manifests()
        if self._named() != self._estimator or look_at(self._estimator) != self._estimator_seen:
            await self._load_estimator()

    async def _load_manifests(self) -> None:
        try:
            declared = await asyncio.to_thread(load, self._path)
        except ManifestError as error:
            self._refused("manifests")
            self._refuses = True
            log.error("%s is not followed, the last good one stays in force: %s", self._path, error)
            return
        mended, self._refuses = self._refuses, False
        if declared == self._leader.declared:
            if mended:
                log.info("%s says again what is in force", self._path)
            return
        _tell_unknown(declared)
        self._leader.follow(declared)
        self._learning.changed()
        log.info("%s has changed and is in force", self._path)

    def _named(self) -> Path | None:
        """Return the file of the estimator that the policy names: NAME.npz beside the manifests."""
        name = self._leader.declared.policy.estimator.ref
        return self._path.parent / f"{name}.npz" if name is not None else None

    async def _load_estimator(self) -> None:
        self._estimator = self._named()
        self._estimator_seen = look_at(self._estimator)
        if self._estimator is None:
            self._learning.set_base(NO_DOCUMENT, frozenset())
            return
        try:
            document, tasks = await asyncio.to_thread(read_base, self._estimator)
        except ArtifactError as error:
            self._refused("estimator")
            log.error(
                "the estimator %s is not used, what was in use before stays: %s; write it anew with "
                "modelfleet train",
                self._estimator,
                error,
            )
        else:
            self._learning.set_base(document, tasks)
            log.info("the estimator %s is in use", self._estimator)


def _tell_unknown(declared: Declared) -> None:
    if declared.unknown:
        log.warning("fields that no one knows are ignored: %s", ", ".join(declared.unknown[:8]))
    if vain := named_in_vain(declared.policy, declared.fleet):
        log.warning("the fleet %s: correct the names", "; ".join(vain[:8]))
