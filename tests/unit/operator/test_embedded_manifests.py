"""What the embedded cluster makes of a user's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.cluster.embedded import EmbeddedCluster, read_manifests


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "one.yaml").write_text(
        "kind: Node\nmetadata: {name: a}\n---\n---\nkind: Node\nmetadata: {name: b}\n"
    )
    (tmp_path / "more" / "c.yaml").write_text("kind: Node\nmetadata: {name: c}\n")
    manifests = read_manifests([tmp_path / "one.yaml", tmp_path / "more"])
    assert [manifest["metadata"] for manifest in manifests] == [{"name": "a"}, {"name": "b"}, {"name": "c"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is not valid YAML"),
        ("just words", "needs kind"),
        ("kind: Node", "needs kind and metadata.name"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"broken\.yaml.*{says}"):
        read_manifests([file])


async def test_applying_again_keeps_what_others_wrote() -> None:
    deployment = {
        "kind": "Deployment",
        "metadata": {"name": "large", "namespace": "ml"},
        "spec": {"template": {"spec": {"containers": []}}},
    }
    cluster, key = EmbeddedCluster([deployment]), ObjectKey("ml", "large")
    first = await cluster.get(Kind.DEPLOYMENT, key)
    await cluster.scale(key, 3, str(first["metadata"]["resourceVersion"]))  # type: ignore[index]
    cluster.apply(deployment)
    assert (await cluster.get(Kind.DEPLOYMENT, key))["spec"]["replicas"] == 3  # type: ignore[index]


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: there is no such file or folder"):
        read_manifests([tmp_path / "nowhere"])
