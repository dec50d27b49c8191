"""Print the measured tables of `docs/evaluation.md` and `docs/methods.md` from evaluations' figures.

In: files of `modelfleet evaluate --json`, with whatever sections they have. Out: Markdown on standard output,
to be put in place of what stands there. The commands are in those pages.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("k95", "k98", "k100", "r25", "r37", "r50")
ESTIMATES = ("auc", "ece")
MAIN = ("default", "hull", "task_mean", "default_task", "knn_40", "ridge")
NAMED = ("k95", "k98", "k100", "r25", "r37", "r50", "auc", "ece")
RULES = ("ours", "greedy marginal gain", "published", "popularity", "equal")
ORDERED = ("ours", "ours, no reserve price", "per-query price")

Figures = Mapping[str, Any]


def main() -> None:
    """Read the files that are named and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().files]
    for name in dict.fromkeys(document["data"]["name"] for document in documents):
        same = [document for document in documents if document["data"]["name"] == name]
        print(f"\n## {name}")
        for title, rows in tables(same):
            print(f"\n{title}\n")
            print("\n".join(rows))


def tables(documents: Sequence[Figures]) -> Iterator[tuple[str, list[str]]]:
    """Yield titles and Markdown lines for evaluations of one folder, a seed each."""
    yield "docs/evaluation.md, by seed", main_table(documents)
    for found in documents:
        seed = f"seed {found['seed']}"
        yield f"docs/evaluation.md, the other policies, {seed}", other_policies(found)
        yield f"docs/evaluation.md, intervals of default, {seed}", [intervals(found)]
        if found["loto"] is not None:
            yield f"docs/evaluation.md, one task left out, {seed}", [left_out(found["loto"])]
        if found["learning"] is not None:
            yield f"docs/learning.md, {seed}", [recovered(found["learning"])]
        if found["capacity"] is not None:
            for key in ("tightness", "fewest_slots"):
                yield f"docs/methods.md, {key}, {seed}", scarce(found["capacity"][key])
        if found["allocation"] is not None:
            yield f"docs/methods.md, allocation, {seed}", allocated(found["allocation"]["gpus"])
    ordered = [found for found in documents if found["order"] is not None]
    for name in dict.fromkeys(name for found in ordered for name in found["order"]["orders"]):
        yield f"docs/methods.md, order {name}", by_order(ordered, name)


def main_table(documents: Sequence[Figures]) -> list[str]:
    rows = table("seed", "policy", *COLUMNS, *ESTIMATES)
    for found in documents:
        policies = found["policies"]
        for name in (name for name in MAIN if name in policies):
            cells = [number(policies[name][column]) for column in (*COLUMNS, *ESTIMATES)]
            rows.append(row(str(found["seed"]), f"`{name}`", *cells))
    return rows


def other_policies(found: Figures) -> list[str]:
    columns = (*COLUMNS, "r100")
    rows = table("policy", *columns)
    for name, policy in found["policies"].items():
        if name not in MAIN:
            rows.append(row(f"`{name}`", *(number(policy[column]) for column in columns)))
    return rows


def intervals(found: Figures) -> str:
    said = []
    for name in NAMED:
        low, high = found[f"{name}_ci"] or (None, None)
        said.append(f"{name} {number(found[name])} ({number(low)} .. {number(high)})")
    return f"{found['resamples']} draws: {', '.join(said)}"


def left_out(found: Figures) -> str:
    tasks = ", ".join(f"{name} {task['gain']:+.4f}" for name, task in found["tasks"].items())
    return f"mean {found['mean']:+.4f}, worst {found['worst']:+.4f} ({tasks})"


def recovered(found: Figures) -> str:
    low, high = found["recovered_ci"]
    return (
        f"stale {number(found['stale'])}, learned {number(found['learned'])}, "
        f"offline {number(found['offline'])}, recovered {number(found['recovered'])} "
        f"({number(low)} .. {number(high)}), greedy {number(found['greedy']['recovered'])}"
    )


def scarce(by_tightness: Mapping[str, Figures]) -> list[str]:
    rows = table("method", *(cell for key in by_tightness for cell in (f"T = {key}", "gain (95 %)")))
    first = next(iter(by_tightness.values()), None)
    for name in () if first is None else first["methods"]:
        cells: list[str] = []
        for tight in by_tightness.values():
            line = tight["methods"][name]
            cells += [number(line["quality"]), "" if name == "ours" else gain(line)]
        rows.append(row(name, *cells))
    return rows


def allocated(by_gpus: Mapping[str, Figures]) -> list[str]:
    rows = table("GPUs", *RULES)
    for count, found in by_gpus.items():
        lines = [found["methods"][name] for name in RULES]
        others = [f"{number(line['quality'])}, {gain(line)}" for line in lines[1:]]
        rows.append(row(count, number(lines[0]["quality"]), *others))
    return rows


def by_order(documents: Sequence[Figures], name: str) -> list[str]:
    rows = table("seed", *ORDERED)
    for found in documents:
        methods = found["order"]["orders"].get(name, {}).get("methods")
        if methods is not None:
            lines = [methods[method] for method in ORDERED]
            cells = [f"{number(line['k98'])}, {number(line['r25'])}" for line in lines]
            rows.append(row(str(found["seed"]), *cells))
    return rows


def gain(line: Figures) -> str:
    low, high = line["behind_ci"]
    return f"{line['behind']:+.2f} ({low:+.2f} .. {high:+.2f})"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def table(*names: str) -> list[str]:
    return [row(*names), "|" + "---|" * len(names)]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


if __name__ == "__main__":
    main()
