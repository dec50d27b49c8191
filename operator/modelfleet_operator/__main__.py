"""`modelfleet-operator`: settings, signals, logs and exit codes around `app`.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 a fault (the log says which); 2 a setting that can not be used;
3 another operator leads. All but 0 and 2 are to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from modelfleet_operator.cluster import ClusterError
from modelfleet_operator.fencing import NotLeadingError
from modelfleet_operator.logs import log_as_json
from modelfleet_operator.settings import Settings, SettingsError, parse_settings

log = logging.getLogger("modelfleet_operator")

STOPPED, FAILED, UNUSABLE, NOT_LEADING = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal; return the exit code."""
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv, os.environ)
    except SettingsError as error:
        sys.stderr.write(f"modelfleet-operator: {error}\n")
        return UNUSABLE
    log_as_json(settings.log_level)
    # The embedded cluster's pods are started by fork and exec, and gRPC would warn of each. It reads this
    # when it is imported, which is why `app` is imported only after it. Its own notes, a line for each failed
    # handshake among them, are no JSON.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    from modelfleet_operator.app import run_operator

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await run_operator(settings, stop)
    except NotLeadingError as error:
        log.error("this process stops leading: %s", error)
        return NOT_LEADING
    except (OSError, ValueError, ClusterError) as error:
        log.error("can not go on: %s", error)
        return FAILED
    except Exception:
        log.exception("an unexpected fault ended the operator")
        return FAILED
    log.info("stopped")
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
