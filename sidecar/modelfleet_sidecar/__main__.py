"""The program `modelfleet-sidecar`: reads settings, runs until SIGTERM or SIGINT, drains, exits 0."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import resource
import signal
import sys

import uvloop

from modelfleet_sidecar.app import assemble
from modelfleet_sidecar.logs import log_to_stderr
from modelfleet_sidecar.settings import Settings, SettingsError, read_settings

log = logging.getLogger("modelfleet_sidecar")

COLLECT = (5_000, 40, 1)
"""Thresholds of the garbage collector: objects of a request die with it, without cycles, but for errors and
what gRPC's library makes of each call. So many young ones are looked through in a quarter of a millisecond.
Old ones are above all the kept decisions, which the second threshold meets as well as the third: what once
outlived a look is found after some 100,000 requests, rather than after millions."""


def main() -> int:
    """Run the sidecar; 2: a setting can not be used, 1: a part broke, 0: drained after a signal."""
    try:
        settings = read_settings(sys.argv[1:])
        log_to_stderr(settings.log_format, settings.log_level)
        allow_connections()
        return uvloop.run(run(settings))
    except SettingsError as error:
        sys.stderr.write(f"modelfleet-sidecar: {error}\n")
        return 2


async def run(settings: Settings) -> int:
    """Serve until a signal comes or a part breaks."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = assemble(settings)
    await sidecar.start()
    _settle_memory()
    log.info(
        "serving HTTP on %s, gRPC on %s, admin on %s; %s",
        sidecar.http_address,
        sidecar.grpc_address,
        sidecar.admin_address,
        f"by {settings.config}" if settings.config is not None else f"operator at {settings.operator}",
    )
    stopping = asyncio.create_task(stop.wait())
    failed = asyncio.create_task(sidecar.failed())
    await asyncio.wait((stopping, failed), return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        log.critical("a part of the sidecar broke", exc_info=failed.exception())
        return 1
    failed.cancel()
    log.info("told to stop: what is in flight has up to %g s to end", settings.drain_grace)
    await sidecar.drain()  # which says what did not end
    log.info("drained")
    return 0


def allow_connections() -> None:
    """Take as many open files as may be had: container runtimes begin programs with 1,024, which a queue full
    of callers and their model servers' connections are above."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _settle_memory() -> None:
    """Leave what a start makes, which stays, out of collections, and have few: each stalls the loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)
    give_back_memory()


def give_back_memory() -> None:
    """Give the system back what a start used and freed, some 7 MiB, which glibc keeps between what stays."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries do it by themselves, or not at all
        trim(0)


if __name__ == "__main__":
    sys.exit(main())
