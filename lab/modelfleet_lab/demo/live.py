"""What the user sees while the demo runs, and the table at its end.

In: progress of the replays, samples of the fleet, the servers' logs. Out: a live view on a terminal, plain
lines elsewhere. Next: the user.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelfleet_lab.demo.evidence import NANO, Score, collect
from modelfleet_lab.demo.replay import Ending, Progress
from modelfleet_lab.demo.sampling import FleetSample, Sampler

REFRESH = 0.5
LINE_INTERVAL = 4.0
"""Seconds between plain lines."""


@dataclass(slots=True)
class Track:
    """One policy's replay as the view knows it."""

    policy: str
    progress: Progress
    folder: Path
    """Where its servers log."""
    money: float
    """USD that it and what went before it may spend."""
    before: frozenset[str] = frozenset()
    """Questions that were asked of the same servers, for the same money, before this replay's."""
    billed: float = 0.0
    budget: float = 0.0
    """USD left by what went before."""
    done: bool = False

    def refresh(self) -> None:
        if not self.done:
            records = collect(self.folder)
            earlier = sum(record.cost_nano_usd for record in records if record.question in self.before)
            self.billed = (sum(record.cost_nano_usd for record in records) - earlier) / NANO
            self.budget = self.money - earlier / NANO
            self.done = len(self.progress.outcomes) == self.progress.total


class View:
    """Shows the demo's progress until cancelled."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tracks: list[Track] = []
        self._stage = ""
        self._fleet = ""
        self._start = time.monotonic()
        self.sampler: Sampler | None = None

    def stage(self, text: str) -> None:
        """Say what happens now."""
        self._stage = text
        self._console.print(Text(f"[{time.monotonic() - self._start:5.1f} s] {text}"))

    def track(
        self,
        policy: str,
        progress: Progress,
        folder: Path,
        money: float,
        before: frozenset[str] = frozenset(),
    ) -> None:
        """Show a replay whose servers log in `folder`; questions of `before` do not count as its own."""
        self._tracks.append(Track(policy, progress, folder, money, before))

    async def run(self) -> None:
        if not self._console.is_terminal:
            await self._print_lines()
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                self._refresh()
                live.update(self._picture(), refresh=True)
                await asyncio.sleep(REFRESH)

    async def _print_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_INTERVAL)
            running = [track for track in self._tracks if not track.done and track.progress.sent]
            self._refresh()
            for track in running:
                progress = track.progress
                self._line(
                    f"{track.policy.split(' (')[0]:<20} {progress.sent:4}/{progress.total} sent"
                    f"{progress.count(Ending.ANSWERED):6} answered{progress.right():6} right"
                    f"{progress.count(Ending.REFUSED):5} shed   ${track.billed:.4f} of ${track.budget:.4f}"
                )
            self._fleet_line()

    def _line(self, text: str) -> None:
        self._console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        for track in self._tracks:
            track.refresh()

    def _fleet_line(self) -> None:
        """Print the replicas when they have changed."""
        if self.sampler is None or not self.sampler.samples:
            return
        variants = self.sampler.samples[-1].variants
        text = ", ".join(f"{v.ready} of {v.desired} {model}" for model, v in variants.items() if v.desired)
        if text != self._fleet:
            self._fleet = text
            self._line(f"replicas ready: {text}")

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [
            Text(f"{time.monotonic() - self._start:5.1f} s  {self._stage}", style="bold")
        ]
        if self.sampler is not None and self.sampler.samples:
            parts.append(_fleet_table(self.sampler.samples[-1]))
        if self._tracks:
            parts.append(self._policy_table())
        return Group(*parts)

    def _policy_table(self) -> Table:
        table = Table(title="Traffic", title_justify="left")
        for name in ("policy", "sent", "answered", "right", "shed", "billed"):
            table.add_column(name, justify="left" if name == "policy" else "right")
        for track in self._tracks:
            progress = track.progress
            table.add_row(
                track.policy,
                f"{progress.sent}/{progress.total}",
                str(progress.count(Ending.ANSWERED)),
                str(progress.right()),
                str(progress.count(Ending.REFUSED)),
                f"${track.billed:.4f} of ${track.budget:.4f}",
            )
        return table


def _fleet_table(sample: FleetSample) -> Table:
    table = Table(title="Fleet, as the operator sees it", title_justify="left")
    table.add_column("model", no_wrap=True)
    for name in ("replicas\nready/planned", "slots\nleased/live", "slot price\nquality/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for model, variant in sample.variants.items():
        table.add_row(
            model,
            f"{variant.ready}/{variant.desired}",
            f"{variant.leased}/{variant.slots}",
            f"{variant.price:.3f}",
        )
    return table


def result_table(scores: Sequence[Score]) -> Table:
    """Return the final table, all of it from the servers' logs but the latency and the endings."""
    table = Table(
        title="The same traffic, GPUs and budget", title_justify="left", box=box.SIMPLE_HEAD, padding=0
    )
    table.add_column("policy", overflow="fold")
    for name in ("quality", "cost", "over\nbudget", "over\nslots", "p50", "p95", "shed", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    best = max(score.quality for score in scores)
    for score in scores:
        table.add_row(
            score.policy,
            Text(f"{score.quality:.1%}", style="bold green" if score.quality == best else ""),
            f"${score.cost_usd:.4f}",
            f"${score.overspend_usd:.4f}",
            str(score.concurrency_violations),
            f"{score.latency_p50_s:.2f} s",
            f"{score.latency_p95_s:.2f} s",
            str(score.shed),
            str(score.lost),
        )
    return table
