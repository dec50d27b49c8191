"""Every command of the walk-through works as written, in this order, and shows what the page promises."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
NEXT = "=== next block ==="
IN_OWN_NETWORK = """
import os, sys
from modelfleet_lab.controlplane import namespace
namespace.enter()
os.execvp("bash", ["bash", "-e", "-u", "-o", "pipefail", *sys.argv[1:]])
"""
"""The page's ports are taken in a network that nothing else uses."""
TIMEOUT = 150.0


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    setup, *blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert setup == "make setup\n. .venv/bin/activate\n"  # Done: this test runs in what it sets up.
    for name in ("examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = tmp_path / "walkthrough.sh"
    script.write_text(f"\necho '{NEXT}'\n".join(blocks), encoding="utf-8")
    printed = run(script)
    start, ready, models, asked, why, streamed, refused, described, metrics, lost, end = printed.split(NEXT)

    assert start.strip() == ""
    assert 'model="large"' in ready
    names = [model["id"] for model in json.loads(models)["data"]]
    assert {"auto", "small", "medium", "large", "frontier"} <= set(names)
    answer, end_of_answer = json.JSONDecoder().raw_decode(asked.strip())
    assert answer["choices"][0]["message"]["content"]
    headers = asked.strip()[end_of_answer:]
    for name in ("model", "tier: gold", "reason", "cost-usd", "decision-id"):
        assert f"x-modelfleet-{name}" in headers
    explained = json.loads(why)
    assert re.search(r"x-modelfleet-decision-id: (\S+)", headers)
    assert explained["model"] == re.search(r"x-modelfleet-model: (\S+)", headers).group(1)  # type: ignore[union-attr]
    assert streamed.count("data: {") > 1
    assert streamed.strip().endswith("data: [DONE]")
    assert "largest" in json.loads(refused)["error"]["message"]
    assert "modelfleet.v1.Router" in described.splitlines()
    assert "Chat" in described
    for metric in ("replicas", "slots", "slot_price", "budget"):
        assert f"modelfleet_{metric}" in metrics
    assert "modelfleet_sidecar" in metrics
    assert re.search(r'state="live".* 0\.0\n.*state="live".* 6\.0', lost, re.DOTALL)
    assert end.strip() == ""


def run(script: Path) -> str:
    """Run the script to its end, and end what it leaves when it fails."""
    folder = script.parent
    process = subprocess.Popen(
        [sys.executable, "-c", IN_OWN_NETWORK, str(script)],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        end(process)
        printed, errors = process.communicate(timeout=30)
        errors += f"\nnot done after {TIMEOUT:g} s"
    finally:
        end(process)
    if process.returncode != 0:
        logs = "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in folder.glob("out/walkthrough/*.log"))
        raise AssertionError(f"{printed}\n{errors}\n{logs}")
    return printed


def end(process: subprocess.Popen[str]) -> None:
    """Have the script's programs end; a script that came to its end has left none."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
