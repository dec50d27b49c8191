"""What the README shows works as written: its examples run, its manifests are accepted."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
import yaml
from modelfleet_core.manifests import parse_fleet, parse_policy
from support.sidecars import Rig, Spec, running_sidecar

pytestmark = pytest.mark.integration

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


async def run_example(code: str, rig: Rig) -> str:
    """Run an example in a process of its own against `rig` instead of the default ports."""
    code = code.replace("http://127.0.0.1:18080", rig.http).replace("127.0.0.1:17070", rig.grpc)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_the_readme_has_one_example_for_each_api() -> None:
    openai_example, grpc_example = blocks("python")
    assert "from openai import OpenAI" in openai_example
    assert "RouterStub" in grpc_example


@pytest.mark.parametrize("number", [0, 1], ids=["openai", "grpc"])
async def test_an_example_prints_the_models_answer(number: int) -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("large", 0.8, by_task={"math": 0.9})) as rig:
        printed = await run_example(blocks("python")[number], rig)
        (record,) = rig.servers["large"].records
    assert printed.strip()
    assert record.status == 200


def test_the_first_manifests_are_a_fleet_and_a_policy_over_it() -> None:
    (text,) = blocks("yaml")
    fleet_manifest, policy_manifest = yaml.safe_load_all(text)
    fleet = parse_fleet(fleet_manifest)
    policy = parse_policy(policy_manifest)
    assert policy.fleet == fleet.key
    assert [tier.name for tier in policy.tiers] == ["gold", "standard"]
