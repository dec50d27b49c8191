"""What one evaluation found, as the page shows it.

In: the document of `modelfleet evaluate --json`. Out: `Findings`. Next: `verdicts`, `plots` and `page`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_lab.report.json_node import Figure, Node

SCHEMA = "modelfleet.evaluation/1"
ROUTING_FIGURES = ("k95", "k98", "k100", "r25", "r37", "r50", "r100")
ESTIMATE_FIGURES = ("auc", "brier", "ece")


@dataclass(frozen=True, slots=True)
class Curve:
    """Relative quality over shares of the best single model's cost, with its 95 % interval."""

    cost: tuple[float, ...]
    quality: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A method at equal cost, where slots are scarce."""

    name: str
    quality: float
    cost: float
    unserved: float
    behind: Figure
    """Ours minus it, in points of the best single model's quality."""


@dataclass(frozen=True, slots=True)
class Capacity:
    share: float
    """Budget, as a share of the best single model's cost."""
    batch: int
    tight: Mapping[str, tuple[Line, ...]]
    """By tightness; ours first, as everywhere."""
    fewest: Mapping[str, tuple[Line, ...]]
    """With as few slots as hold a batch at all."""


@dataclass(frozen=True, slots=True)
class Pressure:
    tightness: float
    batch: int
    budgets: tuple[tuple[float, tuple[Line, ...]], ...]
    """By share of the best single model's cost."""


@dataclass(frozen=True, slots=True)
class Allocation:
    share: float
    gpus: Mapping[str, tuple[Line, ...]]
    """By number of GPUs; lines are rules."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A method in one order of requests."""

    name: str
    points: tuple[tuple[float, float], ...]
    k98: Figure


@dataclass(frozen=True, slots=True)
class Unseen:
    """A task that was left out of training."""

    name: str
    queries: int
    single: str
    quality: float
    single_quality: float
    gain: Figure


@dataclass(frozen=True, slots=True)
class LeftOut:
    mean: float
    worst: float
    tasks: tuple[Unseen, ...]


@dataclass(frozen=True, slots=True)
class Learning:
    """Requests of all tasks meet an estimator that knows half of them; means over replays."""

    share: float
    """Of the answers that are scored."""
    exploration: float
    replays: int
    stale: float
    """Quality without learning."""
    offline: float
    """Quality of an estimator that was trained on everything."""
    recovered: Figure
    """Share of the gap between them."""
    requests: tuple[float, ...]
    learned: tuple[float, ...]
    spread: tuple[float, ...]
    """Standard deviation over replays."""


@dataclass(frozen=True, slots=True)
class Findings:
    command: str
    seed: int
    resamples: int
    name: str
    """Of the data."""
    licence: str
    queries: int
    past: int
    test: int
    tasks: int
    left_out: Mapping[str, str]
    versions: Mapping[str, str]
    models: tuple[str, ...]
    single: str
    """The best single model of the past."""
    single_quality: float
    single_cost: float
    """Mean USD of a query."""
    policies: Mapping[str, Mapping[str, Figure]]
    curves: Mapping[str, Curve]
    reliability: Mapping[str, Reliability]
    constants: Mapping[str, tuple[float, float]]
    """Cost share and relative quality of each model alone."""
    versus: Mapping[str, Mapping[str, Figure]]
    """Ours minus each policy in relative quality at equal cost: r25, r37, ..., paired."""
    literature: Mapping[str, Mapping[str, float]]
    """Measures of papers, by policy."""
    capacity: Capacity | None
    order: Mapping[str, tuple[Ordered, ...]] | None
    pressure: Pressure | None
    allocation: Allocation | None
    unseen: LeftOut | None
    learning: Learning | None


def findings(document: object, source: str) -> Findings:
    """Return what the document says; raise ValueError that names `source` and the place of what is wrong."""
    root = Node(document, source)
    if root.at("schema").text() != SCHEMA:
        raise ValueError(f"{source} is of schema {root.at('schema').text()!r}; this version reads {SCHEMA!r}")
    data, single = root.at("data"), root.at("best_single")
    return Findings(
        command=root.at("command").text(),
        seed=int(root.at("seed").number()),
        resamples=int(root.at("resamples").number()),
        name=data.at("name").text(),
        licence=data.at("licence").text(),
        queries=int(data.at("queries").number()),
        past=int(data.at("past").number()),
        test=int(data.at("test").number()),
        tasks=int(data.at("tasks").number()),
        left_out={name: why.text() for name, why in data.at("left_out").members()},
        versions={name: version.text() for name, version in root.at("versions").members()},
        models=root.at("models").texts(),
        single=single.at("model").text(),
        single_quality=single.at("quality").number(),
        single_cost=single.at("cost_usd").number(),
        policies={
            name: {figure: policy.figure(figure) for figure in (*ROUTING_FIGURES, *ESTIMATE_FIGURES)}
            for name, policy in root.at("policies").members()
        },
        curves={name: _curve(node) for name, node in root.at("curves").members()},
        reliability={
            name: Reliability(*(node.at(key).numbers() for key in ("predicted", "observed", "count")))
            for name, node in root.at("reliability").members()
        },
        constants={
            name: (node.at("cost_share").number(), node.at("relative_quality").number())
            for name, node in root.at("constants").members()
        },
        versus={
            name: {key: node.figure(key) for key, _ in node.members() if not key.endswith("_ci")}
            for name, node in root.at("versus").members()
        },
        literature={
            name: {measure: value.number() for measure, value in node.members()}
            for name, node in root.at("literature").members()
        },
        capacity=_capacity(root.at("capacity")) if root.has("capacity") else None,
        order=_order(root.at("order")) if root.has("order") else None,
        pressure=_pressure(root.at("pressure")) if root.has("pressure") else None,
        allocation=_allocation(root.at("allocation")) if root.has("allocation") else None,
        unseen=_left_out(root.at("loto")) if root.has("loto") else None,
        learning=_learning(root.at("learning")) if root.has("learning") else None,
    )


def _curve(node: Node) -> Curve:
    keys = ("cost_share", "relative_quality", "low", "high")
    columns = [node.at(key).numbers() for key in keys]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{node.where}: {', '.join(keys)} are of different lengths")
    return Curve(*columns)


def _lines(node: Node) -> tuple[Line, ...]:
    return tuple(
        Line(
            name=name,
            quality=line.at("quality").number(),
            cost=line.at("cost").number(),
            unserved=line.at("unserved").number(),
            behind=line.figure("behind"),
        )
        for name, line in node.at("methods").members()
    )


def _capacity(node: Node) -> Capacity:
    return Capacity(
        share=node.at("share").number(),
        batch=int(node.at("batch").number()),
        tight={key: _lines(found) for key, found in node.at("tightness").members()},
        fewest={key: _lines(found) for key, found in node.at("fewest_slots").members()},
    )


def _pressure(node: Node) -> Pressure:
    return Pressure(
        tightness=node.at("tightness").number(),
        batch=int(node.at("batch").number()),
        budgets=tuple((_share(key, found), _lines(found)) for key, found in node.at("budgets").members()),
    )


def _share(key: str, node: Node) -> float:
    try:
        return float(key)
    except ValueError as error:
        raise ValueError(f"{node.where}: the key must be a number") from error


def _allocation(node: Node) -> Allocation:
    return Allocation(
        share=node.at("share").number(),
        gpus={key: _lines(found) for key, found in node.at("gpus").members()},
    )


def _order(node: Node) -> dict[str, tuple[Ordered, ...]]:
    def point(item: Node) -> tuple[float, float]:
        cost, quality = item.numbers()
        return cost, quality

    return {
        order: tuple(
            Ordered(name, tuple(point(item) for item in method.at("points").items()), method.figure("k98"))
            for name, method in found.at("methods").members()
        )
        for order, found in node.at("orders").members()
    }


def _left_out(node: Node) -> LeftOut:
    return LeftOut(
        mean=node.at("mean").number(),
        worst=node.at("worst").number(),
        tasks=tuple(
            Unseen(
                name=name,
                queries=int(task.at("queries").number()),
                single=task.at("single").text(),
                quality=task.at("quality").number(),
                single_quality=task.at("single_quality").number(),
                gain=task.figure("gain"),
            )
            for name, task in node.at("tasks").members()
        ),
    )


def _learning(node: Node) -> Learning:
    curve = node.at("curve")
    return Learning(
        share=node.at("feedback").number(),
        exploration=node.at("exploration").number(),
        replays=len(node.at("seeds").items()),
        stale=node.at("stale").number(),
        offline=node.at("offline").number(),
        recovered=node.figure("recovered"),
        requests=curve.at("requests").numbers(),
        learned=curve.at("learned").numbers(),
        spread=curve.at("spread").numbers(),
    )
