"""Trained estimators come from ConfigMaps; one that can not be used never takes the last good one away."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_core.policy import EstimatorChoice
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Record, Rejected, Unavailable
from modelfleet_operator.estimators import FILE, Base, Estimators
from modelfleet_operator.health import Health
from modelfleet_operator.world import World
from support.manifests import fleet_manifest, policy_manifest
from support.scored_answers import estimator
from support.snapshots import observed

KEY = ObjectKey("ml", "chat-estimator")
FLEET = parse_fleet(fleet_manifest())
POLICY = replace(parse_policy(policy_manifest()), estimator=EstimatorChoice("chat-estimator"))


class _Files:
    """ConfigMaps as a test changes them."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.failure: Exception | None = None
        self.reads = 0
        self._version = 0

    def put(self, content: bytes | None, name: str = FILE) -> None:
        self._version += 1
        binary = {name: content} if content is not None else {}
        self.record = Record(KEY, {}, {}, str(self._version), binary)

    async def record_version(self, key: ObjectKey) -> str | None:
        if self.failure is not None:
            raise self.failure
        return self.record.resource_version if self.record is not None else None

    async def read_record(self, key: ObjectKey) -> Record | None:
        self.reads += 1
        return self.record


async def _looked(files: _Files, estimators: Estimators | None = None) -> tuple[Base, Estimators]:
    made = estimators or Estimators(
        files,
        world=World(observed(fleet_manifest())),
        health=Health(clock=lambda: 0.0, awaited=()),
        clock=lambda: 0.0,
    )
    await made.look([KEY])
    return made.of(POLICY, FLEET), made


def _fault(base: Base) -> tuple[str, str]:
    assert base.fault is not None
    return base.fault.reason, base.fault.message


async def test_an_estimator_is_read_once_for_each_version() -> None:
    files = _Files()
    files.put(estimator())
    base, estimators = await _looked(files)
    assert base.document is not None
    assert (base.document.manifest, base.fault, base.strangers) == (estimator(), None, ())
    again, _ = await _looked(files, estimators)
    assert (again.document is base.document, files.reads) == (True, 1)
    files.put(estimator(best=1))
    changed, _ = await _looked(files, estimators)
    assert changed.document is not None
    assert changed.document.version != base.document.version


async def test_a_policy_without_a_reference_has_no_document() -> None:
    _, estimators = await _looked(_Files())
    assert estimators.of(parse_policy(policy_manifest()), FLEET) == Base(NO_DOCUMENT)


async def test_nothing_is_said_before_the_file_was_looked_at() -> None:
    files = _Files()
    files.failure = Unavailable("the API server is away")
    base, _ = await _looked(files)
    assert base.document is None
    assert _fault(base)[0] == "NotRead"


@pytest.mark.parametrize(
    ("content", "name", "reason", "says"),
    [
        (None, FILE, "NotFound", "--from-file=estimator.npz"),
        (b"", "other.npz", "NotFound", "has other.npz and no binaryData estimator.npz"),
        (b"PK\x03\x04 no archive", FILE, "Invalid", "modelfleet train"),
        (bytes((1 << 20) + 1), FILE, "Invalid", "more than 1048576"),
    ],
)
async def test_a_file_that_can_not_be_used_says_what_to_do_and_the_last_good_one_stays(
    content: bytes | None, name: str, reason: str, says: str
) -> None:
    files = _Files()
    files.put(content, name)
    fresh, _ = await _looked(files)
    assert fresh.document is None
    assert _fault(fresh)[0] == reason
    assert says in _fault(fresh)[1]

    files.put(estimator())
    good, estimators = await _looked(files)
    files.put(content, name)
    after, _ = await _looked(files, estimators)
    assert after.document == good.document
    assert _fault(after)[0] == reason
    assert "stays in force" in _fault(after)[1]
    files.put(estimator())
    mended, _ = await _looked(files, estimators)
    assert (mended.document, mended.fault) == (good.document, None)


async def test_a_config_map_that_goes_leaves_the_estimator_in_force() -> None:
    files = _Files()
    files.put(estimator())
    good, estimators = await _looked(files)
    files.record = None
    gone, _ = await _looked(files, estimators)
    assert gone.document == good.document
    assert _fault(gone) == (
        "NotFound",
        "there is no ConfigMap chat-estimator: kubectl create configmap chat-estimator "
        "--from-file=estimator.npz; the one that was read before stays in force",
    )


async def test_a_refusal_of_the_api_server_is_told_and_an_outage_changes_nothing() -> None:
    files = _Files()
    files.put(estimator())
    good, estimators = await _looked(files)
    files.failure = Unavailable("away")
    assert (await _looked(files, estimators))[0] == good
    files.failure = Rejected("configmaps is forbidden")
    refused, _ = await _looked(files, estimators)
    assert refused.document == good.document
    assert "configmaps is forbidden" in _fault(refused)[1]
    files.failure = None
    assert (await _looked(files, estimators))[0] == good


async def test_models_that_were_not_trained_are_named() -> None:
    files = _Files()
    files.put(estimator(("large", "other")))
    base, _ = await _looked(files)
    assert (base.strangers, base.fault) == (("frontier",), None)
    assert base.document is not None


async def test_an_estimator_of_other_models_is_refused() -> None:
    files = _Files()
    files.put(estimator(("apple", "pear")))
    base, _ = await _looked(files)
    assert base.document is None
    reason, message = _fault(base)
    assert reason == "UnknownModels"
    assert "only apple, pear" in message
