"""Stage publish: the trained estimators that policies name, from their ConfigMaps.

In: `spec.estimator.ref` of every policy and the ConfigMaps, asked for their version now and then and read
only when it is another. Out: the document that sidecars get, and what is wrong with it. Next: `learning`
hands it to the capacity service. A file that can not be used changes nothing: the last good one stays.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.artifact import ArtifactError, decode
from modelfleet_core.leasing.bounds import MAX_DOCUMENT
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import Policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName

from modelfleet_operator.cluster import ClusterError, Record, Rejected
from modelfleet_operator.health import Health
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

FILE = "estimator.npz"
"""Name in the ConfigMap's binaryData."""
POLL = 15.0
"""Seconds between looks at the version of each ConfigMap."""
LATE = 120.0
_LISTED = 8


class Files(Protocol):
    """What this module asks of the cluster."""

    async def record_version(self, key: ObjectKey) -> str | None: ...
    async def read_record(self, key: ObjectKey) -> Record | None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """`reason` is one of the condition `EstimatorReady`, `message` says what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Base:
    """The estimator of one policy, before anything is learned."""

    document: Document | None
    """What sidecars should have; None: not known (yet), they keep what they have."""
    fault: Fault | None = None
    """Why it is not the one that the policy names now."""
    models: frozenset[ModelName] = frozenset()
    """Those that it was trained on."""
    strangers: tuple[ModelName, ...] = ()
    """The fleet's models that it does not know."""
    tasks: frozenset[TaskName] = frozenset()
    """Those that it tells apart."""


@dataclass(frozen=True, slots=True)
class _Good:
    document: Document
    models: frozenset[ModelName]
    tasks: frozenset[TaskName]


@dataclass(frozen=True, slots=True)
class _File:
    version: str | None = None
    """Of the ConfigMap that was looked at last."""
    good: _Good | None = None
    fault: Fault | None = None


_UNREAD = Base(None, Fault("NotRead", "the estimator was not read yet"))


class Estimators:
    """The files that policies name, as they were read last. `clock` is monotonic."""

    def __init__(self, files: Files, *, world: World, health: Health, clock: Callable[[], float]) -> None:
        self._files = files
        self._world = world
        self._health = health
        self._clock = clock
        self._known: dict[ObjectKey, _File] = {}

    async def run(self) -> NoReturn:
        """Look at every file now and then, at those that a policy names anew at once."""
        while True:
            present = self._world.now()
            named = named_by(present)
            for key in self._known.keys() - named:
                del self._known[key]
            await self.look(named)
            self._health.beat("estimators", within=LATE)
            until = self._clock() + POLL
            while named == named_by(present) and (left := until - self._clock()) > 0:
                try:
                    async with asyncio.timeout(left):
                        present = await self._world.change(present.version)
                except TimeoutError:
                    break

    async def look(self, keys: Collection[ObjectKey]) -> None:
        """Read those of the ConfigMaps that are new or changed."""
        for key in sorted(keys, key=str):
            self._health.beat("estimators", within=LATE)
            before = self._known.get(key)
            try:
                version = await self._files.record_version(key)
                if before is not None and before.version == version:
                    continue
                record = await self._files.read_record(key) if version is not None else None
            except Rejected as refused:
                fault = Fault("Invalid", f"ConfigMap {key.name} can not be read: {refused.message}")
                self._take(key, _File("", before.good if before is not None else None, fault))
            except ClusterError as error:
                log.warning("ConfigMap %s can not be read, trying again: %s", key, error)
            else:
                self._take(key, _read(key, record, before))

    def of(self, policy: Policy, fleet: Fleet | None) -> Base:
        """Return the estimator of a policy in force."""
        if policy.estimator.ref is None:
            return Base(NO_DOCUMENT)
        file = self._known.get(_key(policy))
        if file is None:
            return _UNREAD
        if file.good is None:
            return Base(None, file.fault)
        names = tuple(model.name for model in fleet.models) if fleet is not None else ()
        strangers = tuple(name for name in names if name not in file.good.models)
        if names and len(strangers) == len(names):
            trained = ", ".join(sorted(file.good.models)[:_LISTED])
            fault = Fault(
                "UnknownModels",
                f"ConfigMap {policy.estimator.ref} knows none of the fleet's models, only {trained}: train "
                "it on outcomes of these models, or give them the names that it knows",
            )
            return Base(None, fault, file.good.models, strangers)
        return Base(file.good.document, file.fault, file.good.models, strangers, file.good.tasks)

    def _take(self, key: ObjectKey, file: _File) -> None:
        before = self._known.get(key, _File())
        if file.fault is not None and file.fault != before.fault:
            log.warning("estimator %s: %s", key, file.fault.message)
        elif file.good is not None and file.good != before.good:
            log.info("estimator %s has version %s", key, file.good.document.version)
        self._known[key] = file


def named_by(present: Present) -> frozenset[ObjectKey]:
    """Return the ConfigMaps that policies in force name."""
    return frozenset(
        _key(resolved.policy)
        for resolved in present.resolution.policies.values()
        if resolved.policy is not None and resolved.policy.estimator.ref is not None
    )


def _key(policy: Policy) -> ObjectKey:
    return ObjectKey(policy.key.namespace, policy.estimator.ref or "")


def _read(key: ObjectKey, record: Record | None, before: _File | None) -> _File:
    good = before.good if before is not None else None
    kept = "" if good is None else "; the one that was read before stays in force"
    make = f"kubectl create configmap {key.name} --from-file={FILE}"
    if record is None:
        return _File(None, good, Fault("NotFound", f"there is no ConfigMap {key.name}: {make}{kept}"))
    version = record.resource_version
    content = record.binary.get(FILE)
    if content is None:
        there = ", ".join(sorted([*record.binary, *record.data])[:_LISTED]) or "nothing"
        message = f"ConfigMap {key.name} has {there} and no binaryData {FILE}: {make}{kept}"
        return _File(version, good, Fault("NotFound", message))
    digest = hashlib.sha256(content).hexdigest()
    if good is not None and good.document.version == digest:
        return _File(version, good)
    try:
        if len(content) > MAX_DOCUMENT:
            raise ArtifactError(f"it is {len(content)} bytes long, which is more than {MAX_DOCUMENT}")
        trained = decode(content)
    except ArtifactError as error:
        message = f"{FILE} of ConfigMap {key.name} is refused: {error}; write it anew with modelfleet train"
        return _File(version, good, Fault("Invalid", message + kept))
    return _File(
        version, _Good(Document(digest, content), frozenset(trained.models), frozenset(trained.tasks))
    )
