"""Asks a real sidecar very often while servers fail and callers leave, and looks for what it keeps.

    python benchmarks/soak.py --requests 1000000 --json out/soak.json

Over HTTP and gRPC, whole answers and streams, and decisions that the caller settles, all at once. Of the
model servers' answers some are resets, 429 with and without Retry-After, 500, 503, stalls, cut or end in an
error event; of the callers some leave at any time. After a first part, which fills what is kept on purpose,
and again at the end everybody stops, and what is left is counted: memory, tasks, slots, reserved money,
sockets.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.peers import fleet, messages, prompts
from benchmarks.peers.__main__ import CACHE, SEED, say
from benchmarks.peers.about import about
from benchmarks.peers.processes import caller_sockets, end_with_us
from benchmarks.peers.targets import CHAT, Place, Target, sidecar
from benchmarks.peers.tools import Load, Mock, Tools, build, run_load, running_mock

PROMPTS = 10_000
PART = 20_000
"""Requests between two looks at the memory."""
WARM_UP = 100_000
"""Requests before the first count. What is kept on purpose, decisions and answers, is full after some 12,000;
the allocators' free space within their arenas goes on growing for about five times that, as decisions of
other sizes take the places of forgotten ones. In what is left of a million, three bytes kept of each request
would be 3 % of memory."""
WARM_UP_PART = 4
"""In shorter runs it is one of so many parts of all."""
IDLE_SECONDS = 6.0
"""After which connections to model servers that nobody uses have been closed."""
SETTLED_SECONDS = 30.0
CANCEL = 0.05
FAULTS = (
    ("reset", 0.02),
    ("429", 0.001),
    ("429 bare", 0.01),
    ("500", 0.02),
    ("503", 0.01),
    ("stall", 0.01),
    ("cut", 0.02),
    ("error_event", 0.01),
)
"""A Retry-After of a second, the shortest there is, shuts one of four servers for a second: with many of them
all would wait most of the time, and nothing else happen. Each still meets one in ten seconds."""
BEHAVIOUR: Mapping[str, Any] = {
    "faults": [{"fault": fault, "of": of} for fault, of in FAULTS],
    "stall_ms": 100,
    "cut_after": 2,
    "chunks": 4,
    "retry_after": "1",
}
KINDS = {"unary": 0.35, "stream": 0.3, "grpc": 0.15, "grpc-stream": 0.1, "route": 0.1}
"""Of all requests, and of the callers, so that all kinds end a part at about the same time."""
CALLERS = 40
GROWTH = 0.03
MOST_MIB = 150.0
LEAST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left while nobody asks."""

    rss_mb: float
    tasks: int
    slots: int
    reserved_nano_usd: int
    caller_sockets: int
    sockets: int


def main() -> int:
    """Soak; 1: something was not given back, hung, or memory grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=50_000, help="in all (50000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    end_with_us()
    found = soak(max(options.requests, WARM_UP_PART))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(table(found))
    return int(any(not met for _, _, met in verdicts(found)))


def soak(requests: int) -> dict[str, Any]:
    """Return what was asked and what was left of it."""
    tools = build(CACHE / "bin")
    with tempfile.TemporaryDirectory(prefix="modelfleet-soak-") as scratch:
        folder = Path(scratch)
        bodies, estimator = write_bodies(folder), fleet.trained_estimator()
        counts = folder / "counts.json"
        watched = ("benchmarks.peers.watched", str(counts))
        with running_mock(tools, folder) as mock:
            place = Place(folder, mock.urls, estimator, CACHE, say)
            with sidecar(place, module=watched) as target:
                return _soaked(tools, mock, target, bodies, counts, requests)


def _soaked(
    tools: Tools, mock: Mock, target: Target, bodies: Mapping[str, Path], counts: Path, requests: int
) -> dict[str, Any]:
    began, seen = time.monotonic(), Counter[str]()
    parts: list[dict[str, float]] = []
    first: Rest | None = None
    warm = min(WARM_UP, requests // WARM_UP_PART)
    while (done := seen["requests"]) < requests:
        part = min(PART, (warm if first is None else requests) - done)
        mock.behave(**BEHAVIOUR)
        seen.update(_ask(tools, target, bodies, part))
        parts.append(
            {
                "requests": seen["requests"],
                "seconds": round(time.monotonic() - began, 1),
                "cpu_seconds": round(target.program.cpu_seconds(), 1),
                "rss_mb": round(target.program.resident_mb(), 1),
            }
        )
        say(progress(parts, requests))
        if first is None and seen["requests"] >= warm:
            mock.behave()
            first = rest(target, counts)
            say(f"warm: {first}")
    mock.behave()
    last = rest(target, counts)
    assert first is not None  # noqa: S101 - the first part is part of all
    return {
        "about": about(quick=False, prompts=PROMPTS),
        "seconds": round(time.monotonic() - began, 1),
        "seen": dict(seen),
        "served": mock.counts(),
        "parts": parts,
        "warm_up": warm,
        "after_warm_up": asdict(first),
        "at_the_end": asdict(last),
        "rss_growth": round(last.rss_mb / first.rss_mb - 1.0, 4),
        "rss_mb_for_100k": slope(parts, warm),
    }


def progress(parts: Sequence[Mapping[str, float]], requests: int) -> str:
    """Return how far it is, how fast the last part was, and about how long the rest takes."""
    last, before = parts[-1], parts[-2] if parts[1:] else {"requests": 0, "seconds": 0.0}
    rate = (last["requests"] - before["requests"]) / max(last["seconds"] - before["seconds"], 1e-3)
    minutes = (requests - last["requests"]) / max(rate, 1e-3) / 60
    return (
        f"{last['requests']:,} of {requests:,} requests, {rate:.0f} a second, {last['rss_mb']:.1f} MiB, "
        f"about {minutes:.0f} min to go"
    )


def slope(parts: Sequence[Mapping[str, float]], warm: int) -> float | None:
    """Return the MiB by which memory grew with each 100,000 requests after the warm-up, by least squares of
    the looks at it; None: there are too few."""
    looks = [(part["requests"], part["rss_mb"]) for part in parts if part["requests"] >= warm]
    if len(looks) < LEAST_LOOKS:
        return None
    return round(100_000 * linear_regression(*zip(*looks, strict=True)).slope, 2)


def _ask(tools: Tools, target: Target, bodies: Mapping[str, Path], requests: int) -> Counter[str]:
    """Ask all kinds at once; return how requests ended, by kind and status."""
    loads = {kind: _load(target, bodies, kind, round(share * requests)) for kind, share in KINDS.items()}
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(len(loads)) as threads:
        for kind, figures in zip(
            loads, threads.map(lambda load: run_load(tools, load), loads.values()), strict=True
        ):
            seen["requests"] += figures["requests"]
            seen["cancelled"] += figures["cancelled"]
            seen["ok"] += figures["ok"]
            for status, count in figures["statuses"].items():
                seen[f"{kind} {status}"] += count
                seen["hung"] += count if status == "timeout" else 0
                seen["unanswered"] += count if status == "unreached" else 0
    return seen


def _load(target: Target, bodies: Mapping[str, Path], kind: str, requests: int) -> Load:
    grpc = f"http://{target.grpc}/{messages.SERVICE}"
    url, settle = {
        "grpc": (f"{grpc}/Complete", ""),
        "grpc-stream": (f"{grpc}/Chat", ""),
        "route": (f"{grpc}/Route", f"{grpc}/Settle"),
    }.get(kind, (target.http + CHAT, ""))
    return Load(
        "grpc" if kind == "route" else kind,
        url,
        bodies[kind],
        concurrency=round(KINDS[kind] * CALLERS),
        requests=max(1, requests),
        seconds=600.0,
        settle=settle,
        cancel=0.0 if kind == "route" else CANCEL,  # who left a Route has nothing to settle by
    )


def rest(target: Target, counts: Path) -> Rest:
    """Return what is left once nothing changes any more, or after half a minute."""
    time.sleep(IDLE_SECONDS)
    until, before = time.monotonic() + SETTLED_SECONDS, None
    while True:
        time.sleep(2.0)
        now = _look(target, counts)
        settled = before is not None and (now.tasks, now.sockets) == (before.tasks, before.sockets)
        if (settled and not now.slots and not now.reserved_nano_usd) or time.monotonic() > until:
            return now
        before = now


def _look(target: Target, counts: Path) -> Rest:
    resident = target.program.resident_mb()  # before it counts, which takes memory
    counts.unlink(missing_ok=True)
    os.kill(target.program.process.pid, signal.SIGUSR2)
    while not counts.exists():
        target.program.check()
        time.sleep(0.05)
    held = json.loads(counts.read_text(encoding="ascii"))
    ports = [int(address.rpartition(":")[2]) for address in (target.http, target.grpc)]
    pid = target.program.process.pid
    return Rest(
        rss_mb=round(resident, 1),
        caller_sockets=caller_sockets(pid, ports),
        sockets=target.program.sockets(),
        **held,
    )


def write_bodies(folder: Path) -> Mapping[str, Path]:
    """Write the requests, each file in another order of the prompts."""
    texts = prompts.prompts(PROMPTS, SEED)
    files = {}
    for kind in KINDS:
        files[kind] = prompts.write_bodies(folder / f"{kind}.bodies", _bodies(kind, texts))
    return files


def _bodies(kind: str, texts: Sequence[str]) -> Iterator[bytes]:
    for text in texts:
        match kind:
            case "route":
                yield messages.route_message(text)
            case "grpc" | "grpc-stream":
                yield messages.chat_message(text)
            case _:
                yield prompts.chat_body(text, model="auto", stream=kind == "stream")


def verdicts(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return what must hold, in words, as measured, and whether it does."""
    seen, first, last = found["seen"], found["after_warm_up"], found["at_the_end"]
    leaks = [
        (f"leaked {words}", str(count), count <= 0)
        for words, count in (
            ("slots", last["slots"]),
            ("reserved nano-USD", last["reserved_nano_usd"]),
            ("tasks", last["tasks"] - first["tasks"]),
            ("callers' sockets", last["caller_sockets"]),
            ("other sockets", last["sockets"] - first["sockets"]),
        )
    ]
    growth = found["rss_growth"]
    most = max(part["rss_mb"] for part in found["parts"])
    return [
        (
            f"memory at rest, after {found['warm_up']:,} requests and at the end",
            f"{first['rss_mb']:.1f}, {last['rss_mb']:.1f} MiB: {100 * growth:+.1f} %",
            growth <= GROWTH,
        ),
        ("memory under load, the most after a part", f"{most:.1f} MiB", most <= MOST_MIB),
        *leaks,
        *(
            (words, str(seen.get(how, 0)), not seen.get(how, 0))
            for words, how in (("requests that hung", "hung"), ("requests without any answer", "unanswered"))
        ),
    ]


def table(found: Mapping[str, Any]) -> str:
    """Return the table of `docs/performance.md`."""
    seen, served = found["seen"], found["served"]
    asked = {kind: sum(of for word, of in seen.items() if word.startswith(f"{kind} ")) for kind in KINDS}
    ills = [f"{served.get(fault, 0):,} {fault}" for fault, _ in FAULTS if fault != "stall"]
    lines = ["| what | measured | met |", "| --- | --- | --- |"]
    lines += [
        f"| {words} | {figure} | |"
        for words, figure in (
            (f"requests in {found['seconds']:,.0f} s", f"{seen['requests']:,}"),
            (
                "of them, those that stayed to the end",
                ", ".join(f"{of:,} {kind}" for kind, of in asked.items()),
            ),
            ("answered in full", f"{seen['ok']:,}"),
            ("callers who left", f"{seen['cancelled']:,}"),
            ("ended in an error", f"{seen['requests'] - seen['ok'] - seen['cancelled']:,}"),
            ("faults of the model servers", ", ".join(ills)),
            ("memory by 100,000 requests after the warm-up", _mib(found["rss_mb_for_100k"])),
        )
    ]
    lines += [
        f"| {words} | {figure} | {'yes' if met else '**no**'} |" for words, figure, met in verdicts(found)
    ]
    return "\n".join(lines) + "\n"


def _mib(growth: float | None) -> str:
    return "too few looks" if growth is None else f"{growth:+.2f} MiB"


if __name__ == "__main__":
    sys.exit(main())
