"""The page of one or several evaluations: one HTML file that needs nothing else.

In: documents of `modelfleet evaluate --json`. Out: HTML. Next: the reader, who need not believe us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from modelfleet_lab.report import plots
from modelfleet_lab.report.drawing import DARK, VARIABLES, svg
from modelfleet_lab.report.findings import ESTIMATE_FIGURES, ROUTING_FIGURES, Findings, findings
from modelfleet_lab.report.json_node import Figure
from modelfleet_lab.report.names import HULL, ORACLE, OURS, words
from modelfleet_lab.report.verdicts import BUDGETS, Against, against, sentences

TEMPLATE = "page.html.j2"
_MEASURES = {
    "aiq": "AIQ",
    "apgr": "APGR",
    "cpt50": "CPT 50",
    "routerarena": "RouterArena",
    "routing_accuracy": "routing accuracy",
}
"""Those of `literature` that the page shows, and how they are called."""
_SHORT = (OURS, "task_mean", HULL)
"""Policies of the table over several evaluations."""


@dataclass(frozen=True, slots=True)
class Section:
    found: Findings
    key: str
    """Unique on the page."""
    said: tuple[str, ...]
    against: tuple[Against, ...]
    pictures: Mapping[str, Markup]
    outside: int
    """Models alone that cost more or less than the axis shows."""


def render(documents: Sequence[object], sources: Sequence[str] | None = None) -> str:
    """Return the page; raise ValueError for a document that is none, by its name in `sources`."""
    named = sources or [f"evaluation {k + 1}" for k in range(len(documents))]
    sections = [
        _section(findings(document, source), f"e{k}")
        for k, (document, source) in enumerate(zip(documents, named, strict=True))
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "figure": _figure,
        "share": _share,
        "words": words,
        "points": _points,
        "number": _number,
    }
    text = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        sections=sections,
        short=_SHORT,
        oracle=ORACLE,
        ours=OURS,
        measures=_MEASURES,
        overview=("k95", "r25", "r37", "r50", "auc", "ece"),
        routing=ROUTING_FIGURES,
        estimating=ESTIMATE_FIGURES,
        budgets=BUDGETS,
        light={VARIABLES[colour]: colour for colour in DARK},
        dark={VARIABLES[colour]: dark for colour, dark in DARK.items()},
    )


def _section(found: Findings, key: str) -> Section:
    shares = [share for share, _ in found.constants.values()]
    return Section(
        found=found,
        key=key,
        said=sentences(found),
        against=against(found),
        pictures=_pictures(found, key),
        outside=sum(not plots.LEAST_SHARE <= share <= plots.MOST_SHARE for share in shares),
    )


def _pictures(found: Findings, key: str) -> Mapping[str, Markup]:
    """Return what there is to draw, by name."""
    drawn = {"quality": plots.quality_and_cost(found), "reliability": plots.reliability(found)}
    if found.capacity is not None:
        titles = {f"asked for {key} times over": lines for key, lines in found.capacity.tight.items()}
        drawn["capacity"] = plots.differences(titles, "modelfleet")
        titles = {f"asked for {key} times over": lines for key, lines in found.capacity.fewest.items()}
        drawn["fewest"] = plots.differences(titles, "modelfleet")
    if found.pressure is not None:
        drawn["pressure"] = plots.pressure(found.pressure)
    if found.order is not None:
        drawn["order"] = plots.orders(found.order)
    if found.allocation is not None:
        titles = {f"{key} GPUs": lines for key, lines in found.allocation.gpus.items()}
        drawn["allocation"] = plots.differences(titles, "modelfleet's plan")
    if found.unseen is not None:
        drawn["unseen"] = plots.unseen(found.unseen)
    if found.learning is not None:
        drawn["learning"] = plots.learning(found.learning)
    return {
        name: Markup(svg(figure, f"{key}-{name}", name))  # noqa: S704 - our own drawing, with names escaped
        for name, figure in drawn.items()
    }


def _figure(figure: Figure, scale: float = 1.0, digits: int = 3) -> Mapping[str, str]:
    """Return the value and its interval as texts; a dash where there is no value."""
    if not figure.known:
        return {"value": "–", "interval": ""}
    known = math.isfinite(figure.low) and math.isfinite(figure.high)
    interval = f"{scale * figure.low:.{digits}f} .. {scale * figure.high:.{digits}f}" if known else ""
    return {"value": f"{scale * figure.value:.{digits}f}", "interval": interval}


def _points(figure: Figure) -> Mapping[str, str]:
    if not figure.known:
        return {"value": "–", "interval": ""}
    return {"value": f"{figure.value:+.1f}", "interval": f"{figure.low:+.1f} .. {figure.high:+.1f}"}


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"
