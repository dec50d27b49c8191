"""Shows a study: what would be bought, what comes of it, which limits bind and what more is worth.

In: a `Study`. Out: tables on a console, and figures for JSON.
"""

from __future__ import annotations

from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.values import PoolName
from rich.console import Console
from rich.table import Table

from modelfleet_lab.plan.study import Study, Worth

PER_HOUR = 3600.0
_NOISE = 1e-9


def figures(study: Study) -> dict[str, object]:
    """Return all that the report says: money in USD per hour, prices in weighted quality per second."""
    plan, fleet = study.plan, study.problem.fleet
    return {
        "fleet": str(fleet.key),
        "requestsPerSecond": study.asked,
        "answeredPerSecond": study.answered,
        "shedShare": study.shed_share,
        "qualityPerSecond": study.quality,
        "meanQuality": study.quality / study.answered if study.answered else 0.0,
        "value": study.value,
        "hourlyCost": plan.hourly_cost,
        "hourlyBudget": fleet.hourly_budget,
        "variants": [
            {
                "model": key.model,
                "variant": key.variant,
                "replicas": variant.replicas,
                "gpus": variant.replicas * _gpus(study, key.model, key.variant),
                "reason": variant.reason.value,
                "message": variant.message,
            }
            for key, variant in plan.variants.items()
        ],
        "models": {model.name: study.requests(model.name) for model in fleet.models},
        "pools": [
            {
                "name": pool.name,
                "used": plan.gpus[pool.name],
                "limit": pool.limit,
                "price": study.gpu[pool.name].price,
                "gainOfOneMore": study.gpu[pool.name].gain,
                "step": study.gpu[pool.name].step,
                "gainOfStep": study.gpu[pool.name].step_gain,
            }
            for pool in fleet.pools
        ],
        "dollarPerHour": None
        if study.dollar is None
        else {"price": study.dollar.price, "gainOfOneMore": study.dollar.gain},
        "policies": [
            {
                "name": str(policy),
                "hourlyBudget": PER_HOUR * rate,
                "hourlySpend": PER_HOUR * study.spent(policy),
            }
            for policy, rate in study.problem.budget_rate.items()
        ],
        "termination": plan.termination.value,
        "message": plan.message,
        "objective": plan.objective,
        "bound": plan.bound,
        "gap": plan.gap,
        "seconds": study.seconds,
    }


def show(study: Study, console: Console) -> None:
    """Print the report."""
    plan, fleet = study.plan, study.problem.fleet
    limit = "no hourly budget" if fleet.hourly_budget is None else f"of {fleet.hourly_budget:.2f}"
    asked, cost = _figure(study.asked, 4), f"{plan.hourly_cost:.2f} USD an hour"
    console.print(f"Fleet {fleet.key}, {asked} requests/s: {cost} ({limit})", highlight=False)
    if plan.message:
        console.print(plan.message, highlight=False)
    console.print(_bought(study), _outcome(study), _limits(study))
    console.print(
        f"{plan.termination.value}: no plan is worth more than {_figure(plan.bound, 5)} quality/s (weighted, "
        f"less penalties of what is shed); this one is {plan.gap:.2%} below, found in {study.seconds:.2f} s",
        highlight=False,
        soft_wrap=True,
    )


def _bought(study: Study) -> Table:
    table = Table(title="What would run", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for heading in ("replicas", "GPUs", "USD/h", "requests/s"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    fleet = study.problem.fleet
    prices = {pool.name: pool.hourly_cost for pool in fleet.pools}
    for model in fleet.models:
        rate = _figure(study.requests(model.name))
        for variant in model.variants:
            if isinstance(variant.placement, ExternalPlacement):
                cost = f"{PER_HOUR * _spend_elsewhere(study, model.name):.2f}"
                table.add_row(str(variant.key), "-", "-", cost, rate, "External: paid by the request")
                continue
            found = study.plan.variants[variant.key]
            gpus = found.replicas * variant.placement.gpus
            why = f"{found.reason.value}: {found.message.partition(': ')[2]}"
            table.add_row(
                str(variant.key),
                str(found.replicas),
                str(gpus),
                f"{gpus * prices[variant.placement.pool]:.2f}",
                rate,
                why,
            )
            rate = '"'
    return table


def _outcome(study: Study) -> Table:
    table = Table(title="What comes of it", title_justify="left")
    table.add_column("demand", no_wrap=True)
    for heading in ("requests/s", "answered", "quality", "by"):
        table.add_column(heading, justify="left" if heading == "by" else "right")
    for k, demand in enumerate(study.problem.classes):
        flows = {name: rate for (number, name), rate in study.plan.flows.items() if number == k}
        answered = sum(flows.values())
        quality = sum(rate * demand.offers[name].quality for name, rate in flows.items())
        table.add_row(
            "/".join(part for part in (demand.policy.name, demand.tier, demand.task) if part),
            _figure(demand.rate),
            _share(answered / demand.rate),
            f"{quality / answered:.3f}" if answered else "-",
            ", ".join(
                f"{name} {_share(rate / demand.rate)}"
                for name, rate in sorted(flows.items(), key=lambda f: -f[1])
            ),
        )
    mean = f"{study.quality / study.answered:.3f}" if study.answered else "-"
    table.add_section()
    table.add_row("all", _figure(study.asked), _share(1 - study.shed_share), mean, "")
    table.caption = (
        f"{study.quality:.4g} quality per second, without weights; "
        f"{_share(study.shed_share)} of the requests are shed"
    )
    return table


def _limits(study: Study) -> Table:
    table = Table(title="Limits, and what one more is worth in weighted quality/s", title_justify="left")
    table.add_column("limit", no_wrap=True)
    for heading in ("used", "of", "price", "one more gains", "a replica more gains"):
        table.add_column(heading, justify="right")
    fleet = study.problem.fleet
    for pool in fleet.pools:
        used = study.plan.gpus[PoolName(pool.name)]
        worth = study.gpu[pool.name]
        step = f"{worth.step_gain:.3g} ({worth.step} GPUs)" if worth.step > 1 else ""
        table.add_row(f"GPUs of {pool.name}", str(used), str(pool.limit), *_worth(worth), step)
    if fleet.hourly_budget is not None and study.dollar is not None:
        used_money, limit = f"{study.plan.hourly_cost:.2f}", f"{fleet.hourly_budget:.2f}"
        table.add_row("USD an hour", used_money, limit, *_worth(study.dollar))
    for policy, rate in study.problem.budget_rate.items():
        spent = PER_HOUR * study.spent(policy)
        table.add_row(f"USD/h of {policy.name}", f"{spent:.4g}", f"{PER_HOUR * rate:.4g}")
    table.caption = "price: the dual, of a sliver; one more: the best plan with it less this one"
    return table


def _worth(worth: Worth) -> tuple[str, str]:
    return f"{worth.price:.3g}", f"{worth.gain:.3g}"


def _figure(value: float, digits: int = 3) -> str:
    """Return a figure with thousands told apart, and without the noise of a solver around 0."""
    value = 0.0 if abs(value) < _NOISE else value
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _share(part: float) -> str:
    """Return a percentage that is 0 or 100 only where the part is nothing or all."""
    if _NOISE < part < 0.001:
        return "<0.1%"
    if 0.999 < part < 1.0 - _NOISE:
        return ">99.9%"
    return f"{part:.1%}"


def _spend_elsewhere(study: Study, model: str) -> float:
    return sum(
        rate * study.problem.classes[k].offers[name].cost_usd
        for (k, name), rate in study.plan.flows.items()
        if name == model
    )


def _gpus(study: Study, model: str, variant: str) -> int:
    for found in study.problem.fleet.variants():
        if (found.key.model, found.key.variant) == (model, variant) and not isinstance(
            found.placement, ExternalPlacement
        ):
            return found.placement.gpus
    return 0
