"""What was learned is kept by compare and swap, and a leader that was replaced overwrites nothing."""

from __future__ import annotations

import pytest
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Record
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.learned_records import (
    Kept,
    LearnedRecords,
    NewerLeaderError,
    StrangeRecordError,
    record_key,
)

POLICY = ObjectKey("ml", "assistant")


async def test_what_one_leader_keeps_the_next_one_reads() -> None:
    cluster = EmbeddedCluster()
    assert await LearnedRecords(cluster, 1).read(POLICY) == Kept(None, None)
    await LearnedRecords(cluster, 1).write(POLICY, b"one", None)
    kept = await LearnedRecords(cluster, 2).read(POLICY)
    assert kept.state == b"one"
    version = await LearnedRecords(cluster, 2).write(POLICY, b"two", kept.version)
    assert await LearnedRecords(cluster, 2).read(POLICY) == Kept(b"two", version)


async def test_a_leader_that_was_replaced_overwrites_nothing() -> None:
    cluster = EmbeddedCluster()
    older, newer = LearnedRecords(cluster, 1), LearnedRecords(cluster, 2)
    version = await older.write(POLICY, b"one", None)
    kept = await newer.read(POLICY)
    await newer.write(POLICY, b"two", kept.version)
    with pytest.raises(NewerLeaderError, match="epoch 2"):
        await older.write(POLICY, b"stale", version)
    with pytest.raises(NewerLeaderError):
        await older.read(POLICY)
    assert (await newer.read(POLICY)).state == b"two"


async def test_what_an_older_leader_writes_late_is_replaced() -> None:
    cluster = EmbeddedCluster()
    older, newer = LearnedRecords(cluster, 1), LearnedRecords(cluster, 2)
    version = await older.write(POLICY, b"one", None)
    read = await newer.read(POLICY)
    await older.write(POLICY, b"late", version)
    await newer.write(POLICY, b"two", read.version)
    assert (await newer.read(POLICY)).state == b"two"


async def test_a_record_that_someone_deleted_is_created_again() -> None:
    cluster = EmbeddedCluster()
    records = LearnedRecords(cluster, 1)
    version = await records.write(POLICY, b"one", None)
    await records.delete(POLICY)
    await records.write(POLICY, b"two", version)
    assert (await records.read(POLICY)).state == b"two"


async def test_a_config_map_that_is_no_such_record_is_left_alone() -> None:
    cluster = EmbeddedCluster()
    await cluster.write_record(Record(record_key(POLICY), {"anything": "else"}, {}))
    with pytest.raises(StrangeRecordError, match="delete it"):
        await LearnedRecords(cluster, 1).read(POLICY)


def test_names_are_of_one_policy_each_and_short_enough() -> None:
    keys = [ObjectKey("ml", "a"), ObjectKey("ml", "b"), ObjectKey("other", "a"), ObjectKey("ml", "x" * 253)]
    names = [record_key(key).name for key in keys]
    assert len({(record_key(key).namespace, name) for key, name in zip(keys, names, strict=True)}) == 4
    assert max(map(len, names)) <= 253
    assert names[0].startswith("modelfleet-learned-a-")
