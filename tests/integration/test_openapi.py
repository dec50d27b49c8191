"""The document of the HTTP API names what is served; whatever fits it, or not, is answered with a reason."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import aiohttp
import yaml
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.manifest_request import CAPABILITIES
from modelfleet_core.values import EndpointUrl
from modelfleet_sidecar.http_api import CALLS
from support import client_programs
from support.recorders import recorder
from support.sidecars import Spec, fleet_of, policy_of, running_sidecar

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
EXAMPLES = 5
"""Of each path and phase."""


def test_every_kind_of_call_is_in_the_document() -> None:
    paths = yaml.safe_load(DOCUMENT.read_text())["paths"]
    assert set(CALLS) <= set(paths)
    assert all(set(paths[path]) == {"post"} for path in CALLS)


async def test_every_path_of_the_document_is_served() -> None:
    paths = yaml.safe_load(DOCUMENT.read_text())["paths"]
    async with running_sidecar(Spec("small")) as rig, aiohttp.ClientSession() as client:
        for path, methods in paths.items():
            url = rig.http + re.sub(r"\{.*\}", "auto", path)
            async with client.request("PUT", url) as answer:
                assert answer.status == 405
                assert set(methods) == {answer.headers["allow"].split(",")[0].lower()}


async def test_whatever_is_sent_has_an_answer_with_a_reason(tmp_path: Path) -> None:
    schemathesis = await asyncio.to_thread(client_programs.schemathesis)
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    spec = Spec("small", slots=64)
    async with recorder() as server, running_sidecar(granted=False) as rig:
        fleet = fleet_of([spec])
        able = replace(fleet.models[0], capabilities=frozenset(CAPABILITIES), image_tokens=100)
        rig.lease.fleet, rig.lease.policy = replace(fleet, models=(able,)), policy_of()
        rig.lease.grant({EndpointUrl(server.url): SlotGrant(spec.key, 64)})
        run = await asyncio.create_subprocess_exec(
            *(str(schemathesis), "run", str(DOCUMENT), "--url", rig.http, "--checks", checks),
            *("--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing"),
            *("--generation-deterministic", "--workers", "1", "--suppress-health-check", "all"),
            *("--warnings", "off"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await run.communicate()
        assert run.returncode == 0, said.decode()[-6000:]
        assert set(server.paths) == set(CALLS)
        await rig.settled()
