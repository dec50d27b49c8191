"""Measures `modelfleet train` by the number of outcomes: seconds, outcomes per second, peak memory.

    python benchmarks/train.py --json out/train.json
    python benchmarks/train.py --rows 20000 40000

Makes up data in a temporary folder: queries of a dozen tasks, each with its own words, and outcomes of ten
models, model by model, so that no outcome is near its query. Each size is trained by the command in a process
of its own, which tells its time and its peak of resident memory. What grows with the rows is told apart from
what does not by a line through all sizes; linear means that no size is far off that line. The line is of CPU
time, since seconds depend on what else the machine does.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

ROWS = (125_000, 250_000, 500_000, 1_000_000)
MODELS, TASKS, WORDS = 10, 12, 60
_QUERIES_AT_ONCE = 10_000
MOST_BYTES = 10**9


def generate(folder: Path, outcomes: int, seed: int) -> int:
    """Write `outcomes` rows to `folder` in bounded memory; return the number of queries."""
    random = np.random.default_rng(seed)
    words = np.array([f"{chr(97 + k % 26)}{'aeiou'[k % 5]}{k:x}" for k in range(40 * TASKS)])
    count = outcomes // MODELS
    task = random.integers(0, TASKS, count)
    strength, ease = np.linspace(-1.0, 1.5, MODELS), random.normal(0.0, 1.0, TASKS)
    queries = pa.schema([("query_id", pa.string()), ("task", pa.string()), ("prompt", pa.string())])
    with parquet.ParquetWriter(folder / "queries.parquet", queries) as file:
        for first in range(0, count, _QUERIES_AT_ONCE):
            tasks = task[first : first + _QUERIES_AT_ONCE]
            chosen = words[tasks[:, None] * 40 + random.integers(0, 40, (len(tasks), WORDS))]
            columns = [
                [f"q{first + k}" for k in range(len(tasks))],
                [f"task-{k}" for k in tasks],
                [" ".join(row) for row in chosen.tolist()],
            ]
            file.write_table(pa.table(columns, schema=queries))
    recorded = pa.schema(
        [
            ("query_id", pa.string()),
            ("model", pa.string()),
            ("quality", pa.float32()),
            ("output_tokens", pa.int32()),
        ]
    )
    with parquet.ParquetWriter(folder / "outcomes.parquet", recorded) as file:
        for model in range(MODELS):
            for first in range(0, count, _QUERIES_AT_ONCE):
                tasks = task[first : first + _QUERIES_AT_ONCE]
                right = random.random(len(tasks)) < 1.0 / (1.0 + np.exp(-strength[model] - ease[tasks]))
                columns = [
                    pa.array([f"q{first + k}" for k in range(len(tasks))]),
                    pa.array([f"model-{model}"] * len(tasks)),
                    pa.array(right.astype(np.float32)),
                    pa.array(random.integers(50, 900, len(tasks)).astype(np.int32)),
                ]
                file.write_table(pa.table(columns, schema=recorded))
    lines = [
        "model,usd_per_mtok_in,usd_per_mtok_out",
        *(f"model-{k},{k + 1},{2 * k + 2}" for k in range(MODELS)),
    ]
    (folder / "models.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def measure(outcomes: int, place: Path) -> dict[str, float]:
    """Return what training on so many outcomes took."""
    folder = place / str(outcomes)
    folder.mkdir()
    queries = generate(folder, outcomes, seed=outcomes)
    size = sum(path.stat().st_size for path in folder.iterdir())
    figures, estimator = folder / "figures.json", folder / "estimator.npz"
    command = [sys.executable, "-m", "modelfleet_lab", "train", "--data", str(folder), "-o", str(estimator)]
    command += ["--json", str(figures), "--scratch", str(place)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(figures.read_text(encoding="utf-8"))
    shutil.rmtree(folder)
    return {
        "outcomes": outcomes,
        "queries": queries,
        "data_bytes": size,
        "seconds": told["seconds"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "outcomes_per_second": outcomes / told["seconds"],
        "peak_bytes": told["peak_bytes"],
        "estimator_bytes": told["bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="outcomes")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("out/train.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelfleet-bench-") as place:
        found = [measure(rows, Path(place)) for rows in options.rows]
    rows, cpu = (np.array([each[key] for each in found]) for key in ("outcomes", "cpu_seconds"))
    slope, fixed = np.polyfit(rows, cpu, 1) if len(found) > 1 else (cpu[0] / rows[0], 0.0)
    columns = ("outcomes", "queries", "seconds", "CPU s", "per second", "peak MiB", "off line")
    print("".join(f"{column:>12}" for column in columns))
    for each in found:
        each["off_line"] = each["cpu_seconds"] / (fixed + slope * each["outcomes"]) - 1.0
        print(
            f"{each['outcomes']:>12,}{each['queries']:>12,}{each['seconds']:>12.1f}{each['cpu_seconds']:>12.1f}"
            f"{each['outcomes_per_second']:>12,.0f}{each['peak_bytes'] / 2**20:>12.0f}"
            f"{each['off_line']:>12.1%}"
        )
    figures = {
        "models": MODELS,
        "tasks": TASKS,
        "sizes": found,
        "cpu_seconds_per_million": slope * 1e6,
        "cpu_seconds_fixed": fixed,
    }
    peak = max(each["peak_bytes"] for each in found)
    verdict = "met" if peak <= MOST_BYTES else "missed"
    print(f"\n{slope * 1e6:.1f} CPU seconds per million outcomes, and {fixed:.1f} whatever the size")
    print(f"peak memory {peak / 1e9:.2f} GB; required at most {MOST_BYTES / 1e9:g} GB: {verdict}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
