"""Builders of assignment problems: small exact ones and random ones that look like traffic."""

from __future__ import annotations

import numpy as np
from modelfleet_core.assignment.problem import AssignmentProblem, Row


def problem(
    quality: list[list[float]],
    *,
    free: list[int],
    cost: list[list[float]] | None = None,
    money_price: float = 0.0,
    defer: float | list[float] = 0.5,
    eligible: list[list[bool]] | None = None,
    rows: tuple[Row, ...] = (),
    columns: tuple[str, ...] = (),
) -> AssignmentProblem:
    """A problem of weight 1 and without slot prices."""
    array = np.array(quality, dtype=np.float64).reshape(len(quality), len(free))
    n, m = array.shape
    return AssignmentProblem(
        weight=np.ones(n),
        quality=array,
        cost=np.zeros((n, m)) if cost is None else np.array(cost, dtype=np.float64),
        service_time=np.ones((n, m)),
        eligible=np.ones((n, m), dtype=bool) if eligible is None else np.array(eligible),
        free=np.array(free, dtype=np.int64),
        slot_price=np.zeros(m),
        money_price=money_price,
        defer=np.broadcast_to(np.array(defer, dtype=np.float64), (n,)).copy(),
        rows=rows,
        columns=columns,
    )


def traffic(
    seed: int,
    n: int = 256,
    m: int = 8,
    *,
    load: float = 1.0,
    money: float = 0.5,
    tied: bool = False,
    slack: bool = False,
) -> AssignmentProblem:
    """Requests of mixed difficulty over models of rising strength and price.

    `load`: requests per free slot; `money`: budget as a share of what the best models would cost;
    `tied`: only four kinds of request, so that many are alike; `slack`: nothing binds.
    """
    random = np.random.default_rng(seed)
    strength = np.sort(random.uniform(0.3, 0.9, m))
    price = 2e-7 * np.exp(6 * strength) * random.uniform(0.6, 1.6, m)
    kinds = random.integers(0, 4, n)
    difficulty = kinds / 4 if tied else random.beta(1.5, 2.0, n)
    tokens = 100.0 + 100.0 * kinds if tied else random.lognormal(5.0, 0.8, n)
    noise = 0.0 if tied else random.normal(0, 0.08, (n, m))
    quality = np.clip(strength - 0.7 * difficulty[:, None] * (1.1 - strength) + noise, 0.0, 1.0)
    cost = tokens[:, None] * price
    service_time = 0.2 + tokens[:, None] * random.uniform(0.004, 0.03, m)
    share = random.dirichlet(np.full(m, 2.0))
    free = np.maximum(0, np.round(n / load * share)).astype(np.int64)
    limit = money * float(cost[np.arange(n), quality.argmax(axis=1)].sum())
    reserve = cost * random.uniform(2.0, 5.0, (n, 1))
    rows = (
        Row("expected-cost", cost, np.inf if slack else limit),
        Row("reserve", reserve, np.inf if slack else 3.3 * limit),
    )
    return AssignmentProblem(
        weight=random.choice([1.0, 1.0, 4.0], n),
        quality=quality,
        cost=cost,
        service_time=service_time,
        eligible=random.random((n, m)) < 0.92,
        free=np.full(m, n) if slack else free,
        slot_price=random.uniform(0, 0.01, m),
        money_price=float(random.uniform(0, 20)),
        defer=random.uniform(0.0, 0.6, n),
        rows=rows,
    )


KINDS = ("loose", "tight", "degenerate", "many-rows", "ties", "shed")
_LOAD = {"loose": 0.5, "tight": 1.1, "degenerate": 1.0, "many-rows": 1.0, "ties": 1.3, "shed": 2.5}
_MONEY = {"loose": 0.9, "tight": 0.3, "degenerate": 0.5, "many-rows": 0.5, "ties": 0.5, "shed": 0.1}


def mixed(seed: int, n: int = 256, m: int = 8, *, tenants: int = 0) -> tuple[str, AssignmentProblem]:
    """One of `KINDS` in turn, with 1 to 6 rows: reserve, expected cost, a share, a token rate, two tenants.

    "degenerate": qualities in steps of 0.1 from six kinds of request; "shed": most requests find no place.
    `tenants`: as many more rows, each about its own requests only.
    """
    kind = KINDS[seed % len(KINDS)]
    random = np.random.default_rng([seed, n, m])
    tied = kind in ("degenerate", "ties")
    strength = np.sort(random.uniform(0.3, 0.9, m))
    price = 2e-7 * np.exp(6 * strength) * random.uniform(0.6, 1.6, m)
    kinds = random.integers(0, 6, n)
    difficulty = kinds / 6 if tied else random.beta(1.5, 2.0, n)
    tokens = 100.0 + 100.0 * kinds if tied else random.lognormal(5.0, 0.8, n)
    noise = 0.0 if tied else random.normal(0, 0.08, (n, m))
    quality = np.clip(strength - 0.7 * difficulty[:, None] * (1.1 - strength) + noise, 0.0, 1.0)
    if kind == "degenerate":
        quality = np.round(quality, 1)
    cost = tokens[:, None] * price
    service_time = 0.2 + tokens[:, None] * random.uniform(0.004, 0.03, m)
    load = _LOAD[kind] * random.uniform(0.8, 1.25)
    money = _MONEY[kind] * random.uniform(0.7, 1.4)
    free = np.round(n / load * random.dirichlet(np.full(m, 2.0))).astype(np.int64)
    spend = money * float(cost[np.arange(n), quality.argmax(axis=1)].sum())
    reserve = cost * random.uniform(2.0, 5.0, (n, 1))
    frontier = (np.arange(m) >= m - max(1, m // 4)).astype(np.float64)
    rated = (np.arange(m) == random.integers(m)).astype(np.float64)
    tenant = random.integers(0, 3, (n, 1))
    offered = (
        Row("reserve", reserve, 3.3 * spend),
        Row("expected-cost", cost, spend),
        Row("share:frontier", reserve * frontier, 0.35 * 3.3 * spend),
        Row("tokens", tokens[:, None] * rated, 0.15 * float(tokens.sum())),
        Row("tenant:a", np.where(tenant == 0, reserve, 0.0), 0.25 * 3.3 * spend),
        Row("tenant:b", np.where(tenant == 1, reserve, 0.0), 0.3 * 3.3 * spend),
    )
    rows = offered[: 6 if kind == "many-rows" else int(random.integers(1, 7))]
    owner = random.integers(0, max(1, tenants), n)
    accounts = []
    for t in range(tenants):
        who = np.flatnonzero(owner == t)
        accounts.append(Row(f"account:{t}", reserve[who], 3.3 * spend / max(1, tenants), requests=who))
    return kind, AssignmentProblem(
        weight=random.choice([1.0, 1.0, 4.0], n),
        quality=quality,
        cost=cost,
        service_time=service_time,
        eligible=random.random((n, m)) < 0.92,
        free=free,
        slot_price=random.uniform(0, 0.01, m),
        money_price=float(random.uniform(0, 20)),
        defer=np.full(n, 0.3) if tied else random.uniform(0.0, 0.6, n),
        rows=rows + tuple(accounts),
    )
