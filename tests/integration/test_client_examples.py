"""The examples of unchanged clients print what a sidecar answered, with nothing but what injection sets."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from modelfleet_lab.model_server.answers import Answer, Call, message_key, text_tokens
from support import client_programs
from support.client_programs import EXAMPLES
from support.sidecars import Rig, Spec, running_sidecar

pytestmark = pytest.mark.integration

QUESTION = "What is the weather in Paris?"
SUNNY = "It is sunny in Paris today."
ANSWERS = {
    message_key(QUESTION): Answer(SUNNY, text_tokens(SUNNY), call=Call("weather", '{"city": "Paris"}'))
}
SPECS = (Spec("small", 0.5, answers=ANSWERS), Spec("large", 0.8, answers=ANSWERS))
PYTHON = ["openai_python", "langchain_chat", "llamaindex_chat", "litellm_client"]


def injected(rig: Rig) -> dict[str, str]:
    """Return the environment of an application beside the sidecar."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "OPENAI_BASE_URL": f"{rig.http}/v1",
        "OPENAI_API_KEY": "modelfleet",
        "MODELFLEET_ADDRESS": rig.grpc,
    }


async def printed(*command: str | Path, env: Mapping[str, str], cwd: Path) -> str:
    """Run an example; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, env=env, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


def check_openai(text: str) -> None:
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    assert lines["answer"].strip() == SUNNY
    assert lines["stream"].strip() == SUNNY
    assert lines["after the tool"].strip() == SUNNY
    assert re.search(r"^tool: weather \{.*city.*Paris.*\}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", PYTHON)
async def test_an_unchanged_python_client_gets_answers_streams_and_tools(name: str, tmp_path: Path) -> None:
    python = await asyncio.to_thread(client_programs.python)
    async with running_sidecar(*SPECS) as rig:
        text = await printed(python, EXAMPLES / f"{name}.py", env=injected(rig), cwd=tmp_path)
        check_openai(text)
        records = rig.servers["large"].records
        assert len(records) == 4
        assert {(record.status, record.cancelled) for record in records} == {(200, False)}
        await rig.settled()


async def test_the_unchanged_node_client_gets_answers_streams_and_tools(tmp_path: Path) -> None:
    modules = await asyncio.to_thread(client_programs.node_modules)
    (tmp_path / "node_modules").symlink_to(modules)
    example = tmp_path / "openai_node.mjs"
    example.write_text((EXAMPLES / "openai_node.mjs").read_text())
    async with running_sidecar(*SPECS) as rig:
        check_openai(await printed("node", example, env=injected(rig), cwd=tmp_path))
        assert len(rig.servers["large"].records) == 4
        await rig.settled()


async def test_the_typed_clients_own_distribution_needs_nothing_else_of_the_product(tmp_path: Path) -> None:
    python = await asyncio.to_thread(client_programs.python)
    wheel = await asyncio.to_thread(client_programs.client_wheel)
    async with running_sidecar(*SPECS) as rig:
        env = injected(rig) | {"PYTHONPATH": str(wheel)}
        text = await printed(python, EXAMPLES / "typed_client.py", env=env, cwd=tmp_path)
        check_openai(text)
        assert re.search(r"^model: large because: BestValue cost: 0\.\d{9} USD$", text, re.MULTILINE)
        assert re.search(r"^routed to: large settled at: [1-9]\d* nano-USD$", text, re.MULTILINE)
        assert re.search(r"^feedback: 1\.0\nbest candidate: large quality 0\.\d\d$", text, re.MULTILINE)
        assert text.endswith("refused: ModelNotFound model\n")
        await rig.settled()


async def test_the_pages_example_of_the_typed_client_runs_as_it_stands(tmp_path: Path) -> None:
    page = (EXAMPLES.parents[1] / "docs" / "clients.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    async with running_sidecar(*SPECS) as rig:
        text = await printed(sys.executable, "-c", code, env=injected(rig), cwd=tmp_path)
        assert " large " in text.splitlines()[0]
        assert "Usage(input_tokens=" in text.splitlines()[-1]
        await rig.settled()


async def test_grpcurl_finds_the_api_by_reflection_and_calls_it(tmp_path: Path) -> None:
    grpcurl = await asyncio.to_thread(client_programs.grpcurl)
    async with running_sidecar(*SPECS) as rig:
        env = injected(rig) | {"PATH": f"{grpcurl.parent}{os.pathsep}{os.environ['PATH']}"}
        text = await printed(EXAMPLES / "grpcurl.sh", env=env, cwd=tmp_path)
        assert "modelfleet.v1.Router" in text
        assert text.count(f'"content": "{SUNNY}"') == 1
        assert '"arguments": "{\\"city\\": \\"Paris\\"}"' in text
        assert [len(rig.servers[name].records) for name in ("small", "large")] == [1, 2]
        assert '"candidates"' in text
        await rig.settled()
