"""The first act on Kubernetes: `examples/` as they lie in the repository, from kubectl to a streamed answer.

In: a running control plane. Out: what a user would see, on the console; the control plane is left as it was
found. Next: `kubernetes` runs the measured comparison on the same control plane.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from rich.console import Console

from modelfleet_lab.demo.children import Child, Children
from modelfleet_lab.demo.kubectl import Kubectl, KubectlError
from modelfleet_lab.demo.programs import AppPod, Running, operator_and_sidecars, serving

NAMESPACE = "default"
POD = "assistant-0"
"""The pod of `examples/embedded/pods.yaml`, which the policy of `examples/policy.yaml` selects."""
EXTERNAL = "127.0.0.1:18999"
"""Where `examples/fleet.yaml` expects the endpoint that is not in the cluster."""
KINDS = "modelfleets,routingpolicies,deployments"
QUESTION = "What is 17 * 23?"
HEADER = "x-modelfleet-"
SPENT = "jsonpath={.status.budget.spent}"
SPEND_SHOWN = 30.0
"""Seconds within which the policy's status must show what the request cost."""


class ExamplesError(RuntimeError):
    """A step with the examples failed; the message has the ends of the programs' logs."""


async def show_examples(kubectl: Kubectl, folder: Path) -> None:
    """Apply the examples, ask through a sidecar, delete them; raise ExamplesError where a step fails."""
    from openai import OpenAIError  # Heavy: `modelfleet --help` must not wait for it.

    say(kubectl.console, "First act: the examples as they lie in the repository")
    await kubectl.show("apply", "-f", "crds")
    await kubectl.show("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    await kubectl.read("wait", "--for=create", "serviceaccount/default", f"-n={NAMESPACE}", "--timeout=30s")
    # Nodes are created with their status, as a kubelet registers itself.
    await kubectl.show("create", "-f", "examples/embedded/nodes.yaml")
    await kubectl.show("apply", "-f", "examples/embedded/pods.yaml")
    await kubectl.show("apply", "-f", "examples")
    async with Children(folder / "output") as children:
        try:
            await start_node(kubectl, children, folder)
            await _start_external(kubectl.console, children)
            pod = AppPod(NAMESPACE, POD, await uid_of(kubectl, NAMESPACE, POD))
            settings = operator_settings(kubectl, NAMESPACE)
            async with operator_and_sidecars(children, settings, [pod]) as running:
                await _use(kubectl, children, running)
                await _delete(kubectl)
        except (KubectlError, OpenAIError, TimeoutError) as error:
            problem = str(error) or "the fleet was not served, or its spend not shown, in time"
            raise ExamplesError(f"{problem}\n{children.tails()}") from error


async def _use(kubectl: Kubectl, children: Children, running: Running) -> None:
    """Wait until the fleet serves, then ask as an application does."""
    await kubectl.show("wait", "--for=condition=Ready", "--timeout=60s", "modelfleet/chat")
    await serving(running, children)
    await kubectl.look("get", KINDS)
    await ask(running.sidecars[0], kubectl.console)
    async with asyncio.timeout(SPEND_SHOWN):
        # kubectl can not wait for "above 0".
        while await kubectl.read("get", "routingpolicy/assistant", "-o", SPENT) in ("", "0"):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    await kubectl.look("get", KINDS)


async def _delete(kubectl: Kubectl) -> None:
    """Delete what the user applied: first what is modelfleet's, then what never was."""
    await kubectl.show("delete", "-f", "examples/fleet.yaml", "-f", "examples/policy.yaml")
    say(kubectl.console, "The Deployments are the user's: without a fleet they run on as they are")
    await kubectl.look("get", "deployments,pods", "-l", "app in (small,medium,large)")
    await kubectl.show("delete", "--cascade=foreground", "-f", "examples/models.yaml")
    # The pod first: a node that is gone can not say that the pod has ended.
    await kubectl.show("delete", "--now", "-f", "examples/embedded/pods.yaml")
    await kubectl.show("delete", "-f", "examples/embedded/nodes.yaml")


async def ask(sidecar: str, console: Console) -> None:
    """Send one streamed request with OpenAI's client; print the answer and why this model gave it."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    async with (
        DefaultAsyncHttpxClient(trust_env=False) as http,  # the sidecar is local, whatever proxy is set
        AsyncOpenAI(base_url=f"{sidecar}/v1", api_key="modelfleet", http_client=http) as client,
    ):
        console.print(
            f'openai.OpenAI(base_url="{sidecar}/v1").chat.completions.create(model="auto", stream=True, '
            f'messages=[{{"role": "user", "content": "{QUESTION}"}}], '
            'extra_headers={"x-tier": "gold", "x-modelfleet-task": "math"})',
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        answer = await client.chat.completions.with_raw_response.create(
            model="auto",
            stream=True,
            messages=[{"role": "user", "content": QUESTION}],
            extra_headers={"x-tier": "gold", "x-modelfleet-task": "math"},
        )
        chunks = [chunk async for chunk in answer.parse()]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    console.print(f"{len(chunks)} chunks: {text}", markup=False, highlight=False)
    for name, value in answer.headers.items():
        if name.startswith(HEADER):
            console.print(f"  {name}: {value}", markup=False, highlight=False)


async def _start_external(console: Console, children: Children) -> None:
    """Start what stands for the paid API."""
    arguments = ["--listen", EXTERNAL, "--model", "sim-frontier", "--pricing", "3,12"]
    console.print(f"$ modelfleet-model-server {' '.join(arguments)} &", markup=False, highlight=False)
    child = await children.start(
        "sim-frontier", [sys.executable, "-m", "modelfleet_lab.model_server", *arguments]
    )
    await children.ready(child, f"http://{EXTERNAL}/health")


async def start_node(kubectl: Kubectl, children: Children, folder: Path) -> Child:
    """Start the stand-in for scheduler and kubelet, which runs pods as local processes."""
    return await children.start(
        "node",
        [
            sys.executable,
            "-m",
            "modelfleet_operator.cluster.node",
            f"--kubeconfig={kubectl.plane.kubeconfig}",
            f"--logs={folder / 'pods'}",
        ],
    )


def operator_settings(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """Return the environment of an operator that watches one namespace of the control plane."""
    return {
        "KUBECONFIG": str(kubectl.plane.kubeconfig),
        "MODELFLEET_CLUSTER": "kubernetes",
        "MODELFLEET_WATCH_NAMESPACE": namespace,
    }


async def uid_of(kubectl: Kubectl, namespace: str, pod: str) -> str:
    """Return the UID that the API server gave to the pod."""
    found = json.loads(await kubectl.read("get", "pod", pod, "-n", namespace, "-o", "json"))
    return str(found["metadata"]["uid"])


def say(console: Console, text: str) -> None:
    """Print a line that stands out from kubectl's."""
    console.print(f"\n== {text}", markup=False, highlight=False, style="bold")
