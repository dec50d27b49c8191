"""What is simulated: the fleet, the traffic, the network and the faults.

In: options of the command, or a JSON file. Out: a `Scenario`. Next: `workload` and `world`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

TASKS = ("chat", "code", "maths", "summary")
OUTPUT_TOKENS = 256.0
"""Mean length of answers."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model with one variant. `quality`: its mean by task, in the order of `TASKS`."""

    name: str
    quality: tuple[float, ...]
    first_token: float
    per_token: float
    """Seconds."""
    share: float
    """Of the fleet's slots."""
    usd_per_million: float
    """Output tokens; input tokens cost a quarter."""

    @property
    def service_time(self) -> float:
        """Mean seconds that a request holds a slot."""
        return self.first_token + self.per_token * OUTPUT_TOKENS


MODELS = (
    Model("swift", (0.62, 0.35, 0.25, 0.70), 0.2, 0.0105, 0.25, 0.2),
    Model("steady", (0.70, 0.52, 0.45, 0.74), 0.3, 0.0155, 0.30, 0.5),
    Model("strong", (0.76, 0.66, 0.60, 0.76), 0.4, 0.0220, 0.25, 1.5),
    Model("deep", (0.80, 0.78, 0.82, 0.78), 0.6, 0.0290, 0.20, 6.0),
)
"""Together about 5 s a request; hard questions are worth the slow models."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Rates are of the whole fleet: seconds between two of a kind on average; 0: never."""

    loss: float = 0.0
    """Part of the messages after which a stream breaks: it is lost, and both ends connect anew."""
    jitter: float = 0.0
    """Mean seconds that a message takes longer, exponentially spread; order within a stream is kept."""
    crash_every: float = 0.0
    """A sidecar's process ends and starts again in its pod."""
    stall_every: float = 0.0
    """A sidecar stands still for up to 20 s; its requests at model servers go on."""
    failover_every: float = 0.0
    """The leading operator ends without a word; another leads from 3 s later with an epoch of its own."""
    replica_every: float = 0.0
    """A replica vanishes with what it runs; another is ready after its start-up time."""


FAULTS: Mapping[str, Faults] = {
    "none": Faults(),
    "some": Faults(loss=0.0005, jitter=0.002, crash_every=60.0, stall_every=60.0),
    "all": Faults(0.002, 0.01, crash_every=30.0, stall_every=30.0, failover_every=45.0, replica_every=40.0),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run depends on; the same scenario gives the same run (but for measured CPU time)."""

    sidecars: int = 50
    slots: int = 100
    load: float = 0.85
    """Work that arrives, as a share of what all slots together can do."""
    burst: int = 1
    """Requests that arrive at once at one sidecar; the load is the same."""
    duration: float = 120.0
    """Seconds of arrivals; the run goes on until the last request has ended."""
    seed: int = 1
    skew: float = 1.0
    """Zipf exponent of the sidecars' shares of the traffic; 0: all alike."""
    drift: float = 10.0
    """Seconds after which some sidecars have exchanged their places in the skew; 0: never."""
    deadline: float = 30.0
    """Seconds that callers wait for a whole answer."""
    premium: float = 0.2
    """Part of the requests that count double."""
    tenants: int = 1
    """Callers that sidecars tell apart, with equal parts of the load."""
    hot: float = 1.0
    """How many times its part the first of them sends; what the others send is the same."""
    hot_after: float = 0.0
    """Seconds of arrivals after which it does."""
    budget: float = 0.0
    """Part of the spend of serving all by the best models that the hour's hard budget pays; 0: no budget."""
    noise: float = 0.0
    """Standard deviation of what the estimates are wrong by."""
    concurrency: int = 4
    """Slots of one replica."""
    startup: float = 20.0
    """Seconds until a new replica is ready."""
    scaling: bool = False
    """Let allocation change the numbers of replicas within the GPUs of the start."""
    latency: float = 0.001
    """Seconds of a message one way."""
    gather: float = 0.005
    """Least seconds between two passes of the leader."""
    shed_penalty: float = 0.5
    max_wait: float = 0.025
    max_size: int = 64
    faults: Faults = field(default_factory=Faults)
    models: tuple[Model, ...] = MODELS

    def rate(self) -> float:
        """Return requests per second: `load` of what the slots can do."""
        counts = self.slots_by_model()
        able = sum(counts[model.name] / model.service_time for model in self.models)
        return self.load * able

    def slots_by_model(self) -> dict[str, int]:
        """Return each model's slots: its share, in whole replicas where there are enough, at least one."""
        unit = max(1, min(self.concurrency, self.slots // (2 * len(self.models))))
        counts = {model.name: unit for model in self.models}
        wanted = {model.name: model.share * self.slots for model in self.models}
        while sum(counts.values()) < self.slots:
            name = max(counts, key=lambda name: wanted[name] - counts[name])
            counts[name] += min(unit, self.slots - sum(counts.values()))
        return counts

    def data(self) -> dict[str, object]:
        """Return the scenario as JSON values; `scenario_from` reads it back."""
        return asdict(self)


SCENARIOS: Mapping[str, Scenario] = {
    "roomy": Scenario(),
    "scarce": Scenario(sidecars=200, slots=32),
    "bursts": Scenario(burst=20),
    "tight-budget": Scenario(budget=0.12),
    "hot-tenant": Scenario(
        sidecars=1, slots=64, load=0.5, tenants=10, hot=50.0, hot_after=40.0, duration=80.0
    ),
    "many": Scenario(sidecars=2000, slots=400, duration=30.0),
    "scaling": Scenario(scaling=True, duration=240.0, load=0.95),
}


def scenario_from(path: Path) -> Scenario:
    """Return the scenario in a JSON file; what it leaves out is as in `Scenario()`. Raises ValueError."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"the scenario {path} can not be read: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"the scenario {path} is not a JSON object")  # noqa: TRY004 - wrong data
    known = {f.name for f in fields(Scenario)}
    if unknown := sorted(set(data) - known):
        raise ValueError(
            f"the scenario {path} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    _check_types(data, path)
    try:
        if "faults" in data:
            data["faults"] = Faults(**data["faults"])
        if "models" in data:
            models = (Model(**{**model, "quality": tuple(model["quality"])}) for model in data["models"])
            data["models"] = tuple(models)
        scenario = replace(Scenario(), **data)
    except TypeError as error:
        raise ValueError(f"the scenario {path} does not fit: {error}") from error
    check(scenario)
    return scenario


def _check_types(data: Mapping[str, object], path: Path) -> None:
    """Refuse a number that is text and the like; `faults` and `models` are objects of their own."""
    for name, value in data.items():
        kind = type(getattr(Scenario(), name))
        if name in ("faults", "models"):
            continue
        fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
            raise ValueError(f"the scenario {path} has {name} {value!r}; write {words}")


def check(scenario: Scenario) -> None:
    """Raise ValueError where a scenario can not be played, with what to change."""
    least = {
        "sidecars": 1,
        "tenants": 1,
        "hot": 1,
        "slots": len(scenario.models),
        "burst": 1,
        "concurrency": 1,
        "max_size": 1,
        "seed": 0,
    }
    for name, bound in least.items():
        if getattr(scenario, name) < bound:
            raise ValueError(f"{name} is {getattr(scenario, name)}; it must be {bound} or more")
    for name in ("load", "duration", "deadline", "latency", "gather"):
        if not 0 < getattr(scenario, name) < math.inf:
            raise ValueError(f"{name} is {getattr(scenario, name)}; it must be above 0")
    for model in scenario.models:
        if len(model.quality) != len(TASKS):
            raise ValueError(f"model {model.name} needs a quality for each of {', '.join(TASKS)}")
