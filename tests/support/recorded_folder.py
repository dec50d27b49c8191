"""Small folders of recorded outcomes, as the lab reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from modelfleet_lab.outcomes import Recorded
from pyarrow import parquet

MODELS = ("small", "middle", "large", "other")


def recorded(seed: int, n: int = 700) -> Recorded:
    """Return sums, that all can do, and proofs, that the larger models can: at rising cost."""
    random = np.random.default_rng(seed)
    hard = random.random(n) < 0.5
    prompts = tuple(
        f"{'Prove by induction that' if h else 'Add the numbers'} {random.integers(10**6)}" for h in hard
    )
    chance = np.where(hard[:, None], [0.2, 0.5, 0.9, 0.3], [0.9, 0.95, 0.95, 0.6])
    quality = (random.random((n, 4)) < chance).astype(np.float64)
    price_in = np.array([1.0, 4.0, 20.0, 2.0]) * 1e-6
    price_out = 2.0 * price_in
    input_tokens = np.full(n, 100.0)
    output_tokens = np.round(np.where(hard, 900.0, 450.0)[:, None] * random.uniform(0.8, 1.2, (n, 4)))
    return Recorded(
        prompts=prompts,
        tasks=tuple("proof" if h else "sum" for h in hard),
        models=MODELS,
        quality=quality,
        cost=input_tokens[:, None] * price_in + output_tokens * price_out,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        price_in=price_in,
        price_out=price_out,
    )


def tables(data: Recorded) -> tuple[pa.Table, pa.Table]:
    """Return `queries` and `outcomes`, the latter model by model."""
    n, m = data.quality.shape
    ids = [f"q{i}" for i in range(n)]
    queries = {
        "query_id": ids,
        "task": data.tasks,
        "prompt": data.prompts,
        "input_tokens": data.input_tokens.astype(np.int64),
    }
    outcomes = {
        "query_id": ids * m,
        "model": np.repeat(data.models, n),
        "quality": data.quality.T.ravel(),
        "cost_usd": data.cost.T.ravel(),
        "output_tokens": data.output_tokens.T.ravel(),
    }
    return pa.table(queries), pa.table(outcomes)


def write_models(folder: Path, data: Recorded, *, experimental: Sequence[str] = ()) -> None:
    """Write `models.csv`."""
    lines = ["model,usd_per_mtok_in,usd_per_mtok_out,experimental_or_duplicate_endpoint"]
    lines += [
        f"{name},{1e6 * price_in:.6g},{1e6 * price_out:.6g},{name in experimental}"
        for name, price_in, price_out in zip(data.models, data.price_in, data.price_out, strict=True)
    ]
    (folder / "models.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_folder(
    folder: Path, data: Recorded, *, without: Sequence[str] = (), experimental: Sequence[str] = ()
) -> Path:
    """Write the three files, less the columns of outcomes named by `without`; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    queries, outcomes = tables(data)
    parquet.write_table(queries, folder / "queries.parquet")
    parquet.write_table(outcomes.drop_columns(list(without)), folder / "outcomes.parquet")
    write_models(folder, data, experimental=experimental)
    return folder
