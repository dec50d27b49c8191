"""kubectl as the user's hand: every command is shown before what it prints.

In: arguments as a user would write them, from the repository's root. Out: what kubectl printed. Next:
`examples` and `kubernetes` apply, look and delete with it.
"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modelfleet_lab.controlplane.start import ControlPlane

ROOT = Path(__file__).parents[3]
"""The checkout, which holds the CRDs and the examples."""


class KubectlError(RuntimeError):
    """kubectl refused; the message is its own."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with the administrator's rights on one control plane."""

    plane: ControlPlane
    console: Console

    async def show(self, *arguments: str) -> None:
        """Print the command, run it, print its output; raise KubectlError with what kubectl said."""
        self._print(f"$ kubectl {shlex.join(arguments)}")
        self._print(await self.read(*arguments))

    async def look(self, *arguments: str) -> None:
        """Do the same for a quick command, and let no other line come between it and its output."""
        printed = await self.read(*arguments)
        self._print(f"$ kubectl {shlex.join(arguments)}\n{printed.rstrip()}")

    def _print(self, text: str) -> None:
        self.console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)

    async def read(self, *arguments: str) -> str:
        """Run a command quietly; return what it printed."""
        process = await asyncio.create_subprocess_exec(
            str(self.plane.kubectl),
            f"--kubeconfig={self.plane.kubeconfig}",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            output, errors = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            said = "\n".join(part.decode(errors="replace").strip() for part in (output, errors) if part)
            raise KubectlError(
                f"`kubectl {shlex.join(arguments)}` ended with status {process.returncode}:\n{said}"
            )
        return output.decode()
