"""Figures as SVG that follows the page from light to dark.

In: matplotlib figures in the light palette. Out: `<svg>` text whose colours are the page's variables. Next:
`plots` draws with it, `page` inlines what it gives.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")
INK, SOFT, GRID = "#1d2b2a", "#5b6b69", "#e0e6e4"
OURS = "#0b6e4f"
OTHERS = ("#c8553d", "#2d7dd2", "#b07a12", "#7b4fa3", "#1f8a9e", "#a8326e", "#6a7d2b", "#8a6a4f")
DARK = {
    INK: "#e4ecea",
    SOFT: "#9fb0ad",
    GRID: "#2f3b3a",
    OURS: "#4fd1a1",
    **dict(
        zip(
            OTHERS,
            ("#f08a70", "#79b4f2", "#e6b450", "#c09be8", "#5cc8dc", "#ee86b7", "#b4c96a", "#cfae90"),
            strict=True,
        )
    ),
}
"""The same colours on a dark page."""
VARIABLES = {colour: f"--plot-{k}" for k, colour in enumerate(DARK)}
"""Names of the page's variables by colour."""
WIDTH = 8.6
"""Inches; the page scales it."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's colours; what is drawn outside has others."""
    with matplotlib.rc_context(
        {
            "text.parse_math": False,  # Names of models may hold a dollar sign.
            "svg.fonttype": "none",
            "font.size": 9.5,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": SOFT,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
        }
    ):
        yield


def panels(height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure with `rows` by `columns` plots; those of a row share what stands at the left."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row").ravel().tolist()
    for one in axes:
        one.grid(visible=True, color=GRID, linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Axes) -> None:
    """Put the legend beside the plot, where it covers nothing."""
    axes.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def svg(figure: Figure, name: str, title: str) -> str:
    """Return the figure as an element of the page; `name` keeps its ids apart from those of others."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
