"""`modelfleet-injector`: settings, signals, logs and exit codes around `app`; `print` around `printing`.

Exit codes: 0 stopped by SIGTERM or SIGINT, or printed; 1 a fault (the log says which); 2 a setting or a
manifest that can not be used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelfleet_operator.injection.certificates import Authority, CertificateError
from modelfleet_operator.injection.patch import MalformedPod
from modelfleet_operator.injection.settings import PrintSettings, ServeSettings, parse_settings
from modelfleet_operator.logs import log_as_json
from modelfleet_operator.settings import SettingsError

log = logging.getLogger("modelfleet_operator.injection")

STOPPED, FAILED, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal, or print; return the exit code."""
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv, os.environ)
        if isinstance(settings, PrintSettings):
            return _print(settings)
        log_as_json()
        return asyncio.run(_serve(settings))
    except (SettingsError, CertificateError, MalformedPod) as error:
        sys.stderr.write(f"modelfleet-injector: {error}\n")
        return UNUSABLE


def _print(settings: PrintSettings) -> int:
    from modelfleet_operator.injection.printing import EXAMPLE, with_sidecar

    try:
        given = EXAMPLE
        if settings.pod:
            given = sys.stdin.read() if settings.pod == "-" else Path(settings.pod).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"--pod {settings.pod!r} can not be read: {error}") from error
    template = replace(settings.template, authority=Authority(settings.authority).text)
    text, warnings = with_sidecar(given, template, settings.keys)
    sys.stdout.write(text)
    for warning in warnings:
        sys.stderr.write(f"modelfleet-injector: {warning}\n")
    return STOPPED


async def _serve(settings: ServeSettings) -> int:
    # Only here, since printing needs none of it.
    from modelfleet_operator.injection.app import Injector

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    injector = Injector(settings)
    try:
        await injector.run(stop)
    except OSError as error:
        log.error("can not listen: %s", error)
        return FAILED
    except Exception:
        log.exception("an unexpected fault ended the injector")
        return FAILED
    log.info("stopped")
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
