"""Runs the sidecar as its program does, and counts what it holds whenever SIGUSR2 comes.

    python -m benchmarks.peers.watched COUNTS.json --config FILE ...

In: where to write, and the sidecar's own arguments. Out: a file of counts, whole once it is there: tasks of
the event loop, requests in flight by the lease, money reserved. Nothing else of the program is changed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from modelfleet_core.leasing.holding import Holding
from modelfleet_sidecar.__main__ import main


def counts() -> dict[str, int]:
    """Return what the process holds; called in the thread of its event loop."""
    holdings = [found for found in gc.get_objects() if isinstance(found, Holding)]
    accounts = [holding.account(name) for holding in holdings for name in holding.accounts()]
    return {
        "tasks": len(asyncio.all_tasks()),
        "slots": sum(sum(holding.in_flight().values()) for holding in holdings),
        "reserved_nano_usd": sum(account.reserved for account in accounts if account is not None),
    }


def watch(path: Path) -> None:
    """Write the counts to `path` at each SIGUSR2."""

    def write(_number: int, _frame: FrameType | None) -> None:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(counts()), encoding="ascii")
        os.replace(draft, path)

    signal.signal(signal.SIGUSR2, write)


if __name__ == "__main__":
    target = Path(sys.argv.pop(1))
    watch(target)
    sys.exit(main())
