"""What the lab's commands share: what a command is, types of options, and an end by signal.

In: options as text. Out: typed values. Next: `__main__` lists the commands, each has a `command` module.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

Parsers = argparse._SubParsersAction  # argparse has no public name for what `add_subparsers` returns


class CommandError(Exception):
    """What a command started has failed; the message is all that users see."""


class Command(Protocol):
    """A module `command` of the lab.

    `run` returns the exit status; it raises `CommandError` (status 1), or ValueError and OSError for wrong
    options or data (status 2).
    """

    def add(self, commands: Parsers[argparse.ArgumentParser]) -> None:
        """Add the command's parser, with `run` as its default of `run`."""

    def run(self, options: argparse.Namespace, console: Console) -> int: ...


def positive(text: str) -> float:
    """Return a finite number above 0; the type of an option."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def writable(path: Path) -> None:
    """Make sure that a file can be written at `path` before the work begins; raise ValueError if not."""
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise ValueError(f"{path} can not be written: {error.strerror}; name another place") from error
    if not there:
        path.unlink()


async def until_signal(work: Coroutine[Any, Any, object]) -> None:
    """Do the work; Ctrl-C and SIGTERM end it with everything cleaned up."""
    task = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task
