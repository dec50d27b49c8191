"""Reads the demand that a plan is for: requests per second by tier and task.

In: a number, or a path of a YAML or CSV file. Out: demand classes. Next: `study`.

YAML is a list `requests` of entries with `rate` (requests per second) and, where they matter, `policy`,
`tier`, `task`, `inputTokens`, `outputTokens` (means of a request) and `quality` by model; CSV has the same as
columns `rate, policy, tier, task, input_tokens, output_tokens` and `quality:MODEL`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from modelfleet_core.catalog import ExternalPlacement, Fleet, Model
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.policy import Policy
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName, usd

from modelfleet_lab.plan.manifests import Declared

INPUT_TOKENS, OUTPUT_TOKENS = 500.0, 250.0
"""Means of a request, where a demand does not say."""
SHED_PENALTY = 0.5
"""Where there is no policy."""
MOST = 1e9
CSV_FIELDS = {"input_tokens": "inputTokens", "output_tokens": "outputTokens"}
COLUMNS = ("rate", "policy", "tier", "task", "input_tokens", "output_tokens")
QUALITY = "quality:"
FIELDS = ("rate", "policy", "tier", "task", "inputTokens", "outputTokens", "quality")


@dataclass(frozen=True, slots=True)
class Requests:
    """One entry of a demand."""

    where: str
    """For messages: file and place."""
    rate: float
    policy: str | None = None
    tier: str | None = None
    task: str | None = None
    input_tokens: float = INPUT_TOKENS
    output_tokens: float = OUTPUT_TOKENS
    quality: Mapping[str, float] = field(default_factory=dict)


def read_demand(text: str, declared: Declared) -> tuple[DemandClass, ...]:
    """Return the classes of `text`, a rate over the fleet's tasks or a file; raise ValueError or OSError."""
    try:
        rate = float(text)
    except ValueError:
        path = Path(text)
        entries = _csv(path) if path.suffix == ".csv" else _yaml(path)
    else:
        if not 0 < rate <= MOST:
            raise ValueError(
                f"--demand {text}: write requests per second, above 0 and up to {MOST:g}, or a file"
            )
        if len(declared.policies) > 1:
            names = ", ".join(policy.key.name for policy in declared.policies)
            raise ValueError(
                f"--demand {text}: {len(declared.policies)} RoutingPolicies are given ({names}); say in a "
                "file which requests are whose (columns rate and policy), or give one policy"
            )
        entries = even(declared.fleet, rate)
    return tuple(_class(entry, declared) for entry in entries if entry.rate > 0)


def even(fleet: Fleet, rate: float) -> list[Requests]:
    """Return `rate` spread evenly over the tasks that the fleet's `quality.byTask` names."""
    tasks = sorted({task for model in fleet.models for task in model.quality.by_task})
    if not tasks:
        return [Requests("--demand", rate)]
    return [Requests("--demand", rate / len(tasks), task=task) for task in tasks]


def _yaml(path: Path) -> list[Requests]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    rows = document.get("requests") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: write a list `requests` with at least one entry, such as {{rate: 5}}")
    return [_entry(row, f"{path}: requests[{number}]") for number, row in enumerate(rows)]


def _csv(path: Path) -> list[Requests]:
    try:
        # Spreadsheets begin their files with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *lines = [*csv.reader(file, skipinitialspace=True)] or [[]]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV: {error}") from error
    columns = [name.strip() for name in header]
    _check_columns(columns, path)
    entries = []
    for number, line in enumerate(lines, 2):
        if len(line) > len(columns):
            raise ValueError(
                f"{path}: line {number} has {len(line)} values, the header {len(columns)} columns"
            )
        row = {name: value.strip() for name, value in zip(columns, line, strict=False) if value.strip()}
        if not row:
            continue
        quality = {name[8:]: value for name, value in row.items() if name.startswith(QUALITY)}
        known = {CSV_FIELDS.get(n, n): value for n, value in row.items() if not n.startswith(QUALITY)}
        entries.append(_entry(known | {"quality": quality}, f"{path}: line {number}"))
    if not entries:
        raise ValueError(f"{path}: no line below the header; write one with a rate")
    return entries


def _check_columns(columns: list[str], path: Path) -> None:
    known = ", ".join((*COLUMNS, f"{QUALITY}MODEL"))
    for name in columns:
        if name not in COLUMNS and not name.startswith(QUALITY):
            raise ValueError(
                f"{path}: line 1: column {name} is not known; write a comma between columns of {known}"
            )
        if columns.count(name) > 1:
            raise ValueError(f"{path}: line 1: column {name} is there twice")
    if "rate" not in columns:
        raise ValueError(f"{path}: line 1: the column rate is missing; it holds the requests per second")


def _entry(row: object, where: str) -> Requests:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no mapping; write fields such as rate and task")  # noqa: TRY004
    unknown = sorted(str(name) for name in row if name not in FIELDS)
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is not known; known are {', '.join(FIELDS)}")
    quality = row.get("quality", {})
    if not isinstance(quality, dict):
        raise ValueError(f"{where}: quality is no mapping; write it by model: {{large: 0.8}}")  # noqa: TRY004
    if "rate" not in row:
        raise ValueError(f"{where}: rate is missing; write the requests per second")
    return Requests(
        where=where,
        rate=_number(row["rate"], f"{where}: rate", MOST),
        policy=_text(row, "policy", where),
        tier=_text(row, "tier", where),
        task=_text(row, "task", where),
        input_tokens=_number(row.get("inputTokens", INPUT_TOKENS), f"{where}: inputTokens", MOST),
        output_tokens=_number(row.get("outputTokens", OUTPUT_TOKENS), f"{where}: outputTokens", MOST),
        quality={
            str(name): _number(value, f"{where}: quality of {name}", 1.0) for name, value in quality.items()
        },
    )


def _text(row: Mapping[str, object], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{where}: {name} {value!r} is no text; write a name")
    return value


def _number(value: object, where: str, most: float) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= most:
        raise ValueError(f"{where} {value!r} is refused; write a number from 0 to {most:g}")
    return number


def _class(entry: Requests, declared: Declared) -> DemandClass:
    fleet = declared.fleet
    policy = _policy(entry, declared.policies)
    weight, penalty, tier_name, longest = 1.0, SHED_PENALTY, entry.tier or "all", math.inf
    if policy is not None:
        names = [tier.name for tier in policy.tiers]
        if entry.tier is not None and entry.tier not in names:
            raise ValueError(
                f"{entry.where}: {entry.tier} is no tier of {policy.key}; there are {', '.join(names)}"
            )
        tier = policy.tiers[-1] if entry.tier is None else policy.tiers[names.index(TierName(entry.tier))]
        weight, penalty, tier_name = tier.weight, policy.shed_penalty * tier.weight, tier.name
        longest = policy.limits.max_output_tokens
    elif entry.tier is not None:
        raise ValueError(
            f"{entry.where}: tier {entry.tier} without a RoutingPolicy; give its manifest with -f"
        )
    for name in entry.quality:
        if fleet.model(ModelName(name)) is None:
            known = ", ".join(model.name for model in fleet.models)
            raise ValueError(
                f"{entry.where}: {name} is no model of fleet {fleet.key.name}; there are {known}"
            )
    output = min(entry.output_tokens, longest)
    return DemandClass(
        policy=fleet.key if policy is None else policy.key,
        tier=TierName(tier_name),
        task=TaskName(entry.task or ""),
        weight=weight,
        shed_penalty=penalty,
        rate=entry.rate,
        offers={
            model.name: _offer(model, entry, output)
            for model in fleet.models
            if model.context_tokens is None or entry.input_tokens + output <= model.context_tokens
        },
    )


def _policy(entry: Requests, policies: tuple[Policy, ...]) -> Policy | None:
    if entry.policy is None and len(policies) <= 1:
        return policies[0] if policies else None
    found = [policy for policy in policies if policy.key.name == entry.policy]
    if not found:
        names = ", ".join(policy.key.name for policy in policies) or "none was given with -f"
        said = "names no policy" if entry.policy is None else f"policy {entry.policy} is not there"
        raise ValueError(f"{entry.where}: {said}; policies: {names}")
    return found[0]


def _offer(model: Model, entry: Requests, output: float) -> ModelOffer:
    declared = model.quality.of(TaskName(entry.task) if entry.task is not None else None)
    return ModelOffer(
        quality=entry.quality.get(model.name, declared),
        cost_usd=usd(model.pricing.cost(round(entry.input_tokens), round(output))),
        service_time=min(variant.latency.service_time(output) for variant in model.variants),
    )


def left_out(classes: Iterable[DemandClass], declared: Declared) -> tuple[str, ...]:
    """Return what a plan for `classes` does not count, for users to know."""
    notes = []
    tasks = {task for model in declared.fleet.models for task in model.quality.by_task}
    for task in sorted({demand.task for demand in classes if demand.task} - tasks):
        notes.append(f"task {task} is in no model's quality.byTask: quality.prior counts")
    for policy in declared.policies:
        shares = policy.budget.shares if policy.budget is not None else ()
        parts = [("budget.shares", shares), ("quotas", policy.quotas), ("tenants", policy.tenants)]
        if found := [name for name, value in parts if value]:
            notes.append(f"RoutingPolicy {policy.key}: a plan does not count {', '.join(found)}")
    for variant in declared.fleet.variants():
        placement = variant.placement
        if isinstance(placement, ExternalPlacement) and placement.tokens_per_minute is not None:
            notes.append(f"{variant.key}: a plan does not count limits.tokensPerMinute")
    return tuple(notes)


def budget_rates(policies: tuple[Policy, ...]) -> dict[ObjectKey, float]:
    """Return the USD per second that each policy's budget gives on average."""
    return {
        policy.key: usd(policy.budget.limit) / SECONDS[policy.budget.period.value]
        for policy in policies
        if policy.budget is not None
    }


SECONDS = {"Hour": 3600.0, "Day": 86_400.0, "Week": 604_800.0, "Month": 30.4 * 86_400.0}
