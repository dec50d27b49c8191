"""The product's programs as processes of a test: started, awaited, stopped or killed, their logs kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from modelfleet_lab.ports import free_ports

START_SECONDS = 40.0
STOP_SECONDS = 20.0


@dataclass(slots=True)
class Program:
    """One running program; `http` is where it answers /healthz, /readyz and /metrics."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    http: str

    async def ready(self) -> None:
        """Wait until it says that it is ready; what it logged is shown when it does not."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            for _ in range(int(START_SECONDS / 0.1)):
                assert self.process.poll() is None, f"{self.name} ended: {self.tail()}"
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"{self.http}/readyz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.1)
        raise AssertionError(f"{self.name} is not ready after {START_SECONDS} s: {self.tail()}")

    async def metric(self, sample: str) -> float:
        """Return the value of one sample, named with its labels as `/metrics` shows it."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.http}/metrics") as response:
            for line in (await response.text()).splitlines():
                name, _, value = line.rpartition(" ")
                if name == sample:
                    return float(value)
        raise AssertionError(f"{self.name} has no metric {sample}")

    async def stop(self) -> None:
        """End it as a kubelet would; it must end in time and well."""
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        assert code == 0, f"{self.name} ended with exit code {code}: {self.tail()}"

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@asynccontextmanager
async def program(
    name: str, folder: Path, environment: Mapping[str, str], http: str
) -> AsyncIterator[Program]:
    """Run an installed program until the block ends."""
    started = _start(name, folder, environment, http)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
            try:
                await asyncio.to_thread(started.process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                await started.kill()


def _start(name: str, folder: Path, environment: Mapping[str, str], http: str) -> Program:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}-{len(list(folder.glob('*.log')))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(name))],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Program(name, process, log, http)


@asynccontextmanager
async def operator_on(kubeconfig: Path, namespace: str, folder: Path) -> AsyncIterator[tuple[Program, str]]:
    """Run the operator on one namespace of a real API server; yield it and its capacity address."""
    capacity, http = (f"127.0.0.1:{port}" for port in free_ports(2))
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "MODELFLEET_CLUSTER": "kubernetes",
        "MODELFLEET_WATCH_NAMESPACE": namespace,
        "MODELFLEET_NAMESPACE": namespace,
        "MODELFLEET_CAPACITY_LISTEN": capacity,
        "MODELFLEET_HTTP_LISTEN": http,
    }
    async with program("modelfleet-operator", folder, environment, f"http://{http}") as running:
        yield running, capacity


@asynccontextmanager
async def sidecar_of(
    pod: Mapping[str, str], capacity: str, folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Program, str]]:
    """Run the sidecar of a pod (`namespace`, `name`, `uid`); yield it and the base URL of its HTTP API."""
    http, grpc, admin = (f"127.0.0.1:{port}" for port in free_ports(3))
    environment = {
        "MODELFLEET_OPERATOR": capacity,
        "MODELFLEET_NAMESPACE": pod["namespace"],
        "MODELFLEET_POD_NAME": pod["name"],
        "MODELFLEET_POD_UID": pod["uid"],
        "MODELFLEET_HTTP_LISTEN": http,
        "MODELFLEET_GRPC_LISTEN": grpc,
        "MODELFLEET_ADMIN_LISTEN": admin,
    } | dict(settings or {})
    async with program("modelfleet-sidecar", folder, environment, f"http://{admin}") as running:
        yield running, f"http://{http}"
