"""Stage scale: from planned replicas to patches of `/scale`, in an order that never passes a limit.

In: a `FleetView` and the replicas that the plan wants. Out: `Patch`es that are safe now, and their outcomes.
Next: the cluster; what was held back here follows in a later pass.

One writer, and every patch is fenced by the Deployment's resourceVersion: whoever changed it in between wins,
and the fleet is planned anew. Before a leader adds its first replica it writes its epoch on every target, so
that whatever an earlier leader still has under way comes too late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil

from modelfleet_core.allocation.throughput import Room
from modelfleet_core.catalog import PoolPlacement
from modelfleet_core.values import ObjectKey, PoolName, VariantKey

from modelfleet_operator.cluster import Cluster, Conflict, Kind, NotFound, Rejected
from modelfleet_operator.fencing import ATTEMPTS, Fence
from modelfleet_operator.observe import Observer, Workload, workload_of
from modelfleet_operator.views import FleetView

_CENT = 1e-6
"""USD per hour by which sums of decimals may miss a limit that they meet."""
_WHOLE = 1e-6
"""By which a share of GPUs may miss a whole number."""
STEP = 0.25
"""Share of a pool's GPUs, or of the money spent, that may serve nothing at one time for a move."""
_CHEAP = -1_000_000_000
"""Cost of a pod that is to go: lower than what users write, and above the least that Kubernetes reads."""


@dataclass(frozen=True, slots=True)
class Patch:
    variant: VariantKey
    target: ObjectKey
    before: int
    replicas: int
    resource_version: str


class Outcome(Enum):
    DONE = "Done"
    OVERTAKEN = "Overtaken"
    """Someone else changed the Deployment first: plan anew."""
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class Scaled:
    patch: Patch
    outcome: Outcome
    message: str = ""


def gpus_left(view: FleetView) -> dict[PoolName, int]:
    """Return the GPUs of each pool that no pod holds, pending and terminating ones included; may be < 0."""
    occupied = view.gpus_occupied()
    return {
        pool.name: min(pool.limit, view.stock.get(pool.name, 0)) - occupied[pool.name]
        for pool in view.fleet.pools
    }


def money_left(view: FleetView, external: float) -> float:
    """Return the USD per hour that neither pods nor `external` spend use; infinite without a budget."""
    if view.fleet.hourly_budget is None:
        return float("inf")
    occupied = view.gpus_occupied()
    spent = sum(pool.hourly_cost * occupied[pool.name] for pool in view.fleet.pools)
    return view.fleet.hourly_budget - external - spent


def next_patches(
    view: FleetView,
    desired: Mapping[VariantKey, int],
    *,
    external: float,
    stalled: frozenset[VariantKey] = frozenset(),
    lingering: frozenset[VariantKey] = frozenset(),
    room: Room | None = None,
) -> tuple[Patch, ...]:
    """Return the patches that are safe now, those that add replicas first.

    `external` is the USD per hour that the plan spends elsewhere; `stalled` variants have had their time to
    become ready, pods of `lingering` ones theirs to end; `room` is what replicas take of the present
    requests, None: not known. Replicas are added only into GPUs and money that are free already. Replicas go
    once nothing is on its way that may replace them; sooner only as many as are in the way of a limit, or of
    what is to be added, beyond those that stop already. For the latter GPUs and money change hands in steps,
    the next once what came for the last is ready; a step is larger where requests lack the room that the
    move brings, and what they can spare is no part of it. What they can not spare does not go for variants
    that are stalled.
    """
    gpus, money = gpus_left(view), money_left(view, external)
    prices = {pool.name: pool.hourly_cost for pool in view.fleet.pools}
    stopping, saved = _stopping(view)
    short = {pool: -left - stopping[pool] for pool, left in gpus.items()}
    over = dict(short)
    poor = in_debt = -money - saved
    moves = [
        (key, placement, view.workloads[key])
        for key, placement in _placements(view)
        if key in view.scalable and key in desired
    ]
    asked = view.current()
    awaited: set[VariantKey] = set()
    ups: list[Patch] = []
    for key, placement, workload in sorted(moves, key=lambda move: (move[2].ready > 0, move[1].gpus)):
        wanted = max(0, desired[key] - workload.replicas)
        price = placement.gpus * prices[placement.pool]
        affordable = int((money + _CENT) / price) if price > 0 and money != float("inf") else wanted
        fitting = max(0, min(wanted, gpus[placement.pool] // placement.gpus, affordable))
        gpus[placement.pool] -= fitting * placement.gpus
        money -= fitting * price
        short[placement.pool] += wanted * placement.gpus
        poor += wanted * price
        asked[key] += fitting
        if fitting > 0:
            ups.append(_patch(key, view, workload.replicas + fitting))
        if desired[key] > workload.ready:
            awaited.add(key)
    step, payable = _steps(view, asked, desired, stalled, lingering, room)
    serving = {key: workload.ready for key, workload in view.workloads.items()}
    downs = []
    # What does not serve is missed least, and of what serves one of many less than the last.
    for key, placement, workload in sorted(
        moves,
        key=lambda m: (room is None or room.uses(m[0]), m[2].ready >= m[2].replicas, -m[2].ready),
    ):
        pool = placement.pool
        price = placement.gpus * prices[placement.pool]
        fewer = max(0, workload.replicas - desired[key])
        useless = max(0, workload.replicas - workload.ready)
        if awaited - {key}:
            useless += _spared(key, fewer - useless, serving, room)
            missed = step[pool] if awaited - stalled - {key} else 0
            needed = ceil(
                min(short[pool], max(over[pool], missed + useless * placement.gpus)) / placement.gpus
            )
            if price > 0 and poor > _CENT:
                missed_usd = payable if awaited - stalled - {key} else 0.0
                freed = min(poor, max(in_debt, missed_usd + useless * price))
                needed = max(needed, ceil((freed - _CENT) / price))
            if not awaited - stalled - {key}:
                needed = max(needed, useless)
            fewer = max(0, min(fewer, needed))
        short[pool] -= fewer * placement.gpus
        over[pool] -= fewer * placement.gpus
        poor -= fewer * price
        in_debt -= fewer * price
        serving[key] -= max(0, fewer - max(0, workload.replicas - workload.ready))
        step[pool] -= max(0, fewer - useless) * placement.gpus
        payable -= max(0, fewer - useless) * price
        if fewer > 0:
            downs.append(_patch(key, view, workload.replicas - fewer))
    return (*ups, *downs)


def _spared(key: VariantKey, most: int, serving: Mapping[VariantKey, int], room: Room | None) -> int:
    """Return how many ready replicas of a variant, up to `most`, present requests and bursts can spare."""
    if room is None:
        return 0
    spared = 0
    while spared < most and not room.takes_less(serving, {**serving, key: serving[key] - spared - 1}):
        spared += 1
    return spared


def _steps(
    view: FleetView,
    asked: Mapping[VariantKey, int],
    desired: Mapping[VariantKey, int],
    stalled: frozenset[VariantKey],
    lingering: frozenset[VariantKey],
    room: Room | None,
) -> tuple[dict[PoolName, int], float]:
    """Return how many GPUs of each pool, and USD per hour, may stop serving for a move besides what does.

    Enough for one replica at least. `asked`: replicas, with those that are added now.
    """
    prices = {pool.name: pool.hourly_cost for pool in view.fleet.pools}
    urgency = 0.0 if room is None else _urgency(view, asked, desired, stalled, lingering, room)
    largest, idle, ending, going = (dict.fromkeys(prices, 0) for _ in range(4))
    for key, placement in _placements(view):
        if (workload := view.workloads.get(key)) is None:
            continue
        pool, change = placement.pool, desired.get(key, asked[key]) - workload.replicas
        starting = 0 if key in stalled else max(0, max(asked[key], workload.pods) - workload.ready)
        leaving = 0 if key in lingering else workload.terminating
        if change > 0:
            largest[pool] = max(largest[pool], placement.gpus)
        idle[pool] += placement.gpus * (starting + leaving)
        ending[pool] += placement.gpus * leaving
        going[pool] += placement.gpus * max(0, -change)
    sizes = {pool.name: min(pool.limit, view.stock.get(pool.name, 0)) for pool in view.fleet.pools}
    lacking = {pool: urgency * (going[pool] + ending[pool]) - ending[pool] for pool in sizes}
    gpus = {
        pool: max(0, max(largest[pool], int(STEP * size)) - idle[pool], ceil(lacking[pool] - _WHOLE))
        for pool, size in sizes.items()
    }
    occupied = view.gpus_occupied()
    dearest = max((price * largest[pool] for pool, price in prices.items()), default=0.0)
    spent = sum(price * occupied[pool] for pool, price in prices.items())
    unused = sum(price * idle[pool] for pool, price in prices.items())
    lacked = sum(price * lacking[pool] for pool, price in prices.items())
    return gpus, max(0.0, max(dearest, STEP * spent) - unused, lacked)


def _urgency(
    view: FleetView,
    asked: Mapping[VariantKey, int],
    desired: Mapping[VariantKey, int],
    stalled: frozenset[VariantKey],
    lingering: frozenset[VariantKey],
    room: Room,
) -> float:
    """Return the share of a move that brings the room which requests lack, beside what is on its way.

    A variant brings none until one of its replicas was seen to become ready.
    """
    before, after = {}, {}
    for key, workload in view.workloads.items():
        proven = workload.ready > 0 and key not in stalled
        # What ends still counts, so that a step under way makes the next no larger.
        ending = 0 if key in lingering else workload.terminating
        before[key] = (asked[key] if proven else workload.ready) + ending
        wanted = desired.get(key, asked[key])
        after[key] = wanted if proven else min(wanted, workload.ready)
    return room.urgency(before, after)


def _stopping(view: FleetView) -> tuple[dict[PoolName, int], float]:
    """Return the GPUs of each pool, and the USD per hour, of pods that exist beyond those asked for."""
    gpus = {pool.name: 0 for pool in view.fleet.pools}
    for key, placement in _placements(view):
        if (workload := view.workloads.get(key)) is not None:
            gpus[placement.pool] += placement.gpus * (workload.occupied - workload.replicas)
    return gpus, sum(pool.hourly_cost * gpus[pool.name] for pool in view.fleet.pools)


class Scaler:
    """Writes patches behind a leader's fence."""

    def __init__(self, cluster: Cluster, observer: Observer, fence: Fence) -> None:
        self._cluster = cluster
        self._observer = observer
        self._fence = fence

    async def apply(self, patches: Sequence[Patch], targets: Iterable[Workload]) -> tuple[Scaled, ...]:
        """Write each patch; `targets` are the workloads of all fleets, as observed.

        Raises `NotLeadingError` and `Unavailable`; the rest is in the outcomes.
        """
        kept_off = await self._fence.close(targets) if patches else {}
        return tuple(
            [
                Scaled(patch, Outcome.REFUSED, kept_off[patch.target])
                if patch.target in kept_off
                else await self._write(patch)
                for patch in patches
            ]
        )

    async def mark(self, pods: Iterable[ObjectKey], *, leaving: bool) -> dict[ObjectKey, str]:
        """Tell Kubernetes to choose `pods` first when replicas go, or as it likes; return what went wrong.

        A pod that is gone needs no mark. Raises `NotLeadingError` and `Unavailable`.
        """
        problems: dict[ObjectKey, str] = {}
        for pod in pods:
            self._fence.assure(pod)
            try:
                # Lower than the marks that an earlier leader left.
                await self._cluster.mark_pod(pod, _CHEAP - self._fence.epoch if leaving else None)
            except NotFound:
                continue
            except Rejected as refused:
                problems[pod] = refused.message
        return problems

    async def _write(self, patch: Patch) -> Scaled:
        version = patch.resource_version
        for _ in range(ATTEMPTS):
            self._fence.assure(patch.target)
            try:
                await self._cluster.scale(patch.target, patch.replicas, version)
            except Conflict:
                try:
                    manifest = await self._cluster.get(Kind.DEPLOYMENT, patch.target)
                except NotFound as gone:
                    return Scaled(patch, Outcome.OVERTAKEN, str(gone))
                workload = workload_of(patch.target, manifest)
                if workload.owner or workload.replicas != patch.before:
                    message = workload.owner or f"its replicas became {workload.replicas} meanwhile"
                    return Scaled(patch, Outcome.OVERTAKEN, message)
                if problem := self._fence.problem(workload):
                    return Scaled(patch, Outcome.REFUSED, problem)
                version = workload.resource_version  # only its status or our own stamp moved
            except NotFound as gone:
                return Scaled(patch, Outcome.OVERTAKEN, str(gone))
            except Rejected as refused:
                return Scaled(patch, Outcome.REFUSED, refused.message)
            else:
                self._observer.scaled(patch.target, patch.replicas)
                return Scaled(patch, Outcome.DONE)
        return Scaled(patch, Outcome.OVERTAKEN, f"it changed {ATTEMPTS} times while it was written")


def _patch(key: VariantKey, view: FleetView, replicas: int) -> Patch:
    workload = view.workloads[key]
    return Patch(key, workload.key, workload.replicas, replicas, workload.resource_version)


def _placements(view: FleetView) -> list[tuple[VariantKey, PoolPlacement]]:
    return [
        (variant.key, variant.placement)
        for variant in view.fleet.variants()
        if isinstance(variant.placement, PoolPlacement)
    ]
