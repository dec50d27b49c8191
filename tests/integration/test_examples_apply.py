"""A real API server takes the examples as they are, without a warning about an unknown field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.control_plane import Plane

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize(
    "path", [EXAMPLES, EXAMPLES / "embedded", EXAMPLES / "first-day"], ids=lambda path: path.name
)
def test_the_examples_are_accepted(plane: Plane, path: Path) -> None:
    told = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))
    assert told.count("(server dry run)") == sum(
        text.count("\nkind:") + text.startswith("kind:") for text in map(Path.read_text, path.glob("*.yaml"))
    )


def test_the_readmes_first_manifests_are_accepted(plane: Plane) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (manifests,) = re.findall(r"^```yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    told = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=manifests)
    assert told.count("(server dry run)") == 2
