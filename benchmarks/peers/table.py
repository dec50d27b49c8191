"""Prints what was measured as the tables of `docs/performance.md`.

In: the harness's JSON. Out: Markdown. Figures that a target has no meaning for, or that were not taken, are a
dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
COLUMNS = (
    ("requests_per_cpu_s", "requests / CPU s", ",.0f"),
    ("chunks_per_cpu_s", "chunks / CPU s", ",.0f"),
    ("added_p50_ms", "added p50, ms", ".2f"),
    ("added_p99_ms", "added p99, ms", ".2f"),
    ("added_first_chunk_p50_ms", "first chunk p50, ms", ".2f"),
    ("rss_idle_mb", "RSS idle, MiB", ".0f"),
    ("rss_load_mb", "RSS load, MiB", ".0f"),
    ("ready_s", "ready, s", ".1f"),
)
"""Key, heading and format of the main table."""
GOALS = (
    (("sidecar", "requests_per_cpu_s"), "HTTP relay: requests / CPU s", ">=", 1_050, 2_000, ",.0f"),
    (("sidecar_grpc", "requests_per_cpu_s"), "gRPC `Complete`: calls / CPU s", ">=", 630, 1_100, ",.0f"),
    (("sidecar_grpc", "route_per_cpu_s"), "gRPC `Route` alone: calls / CPU s", ">=", 1_000, 1_800, ",.0f"),
    (("sidecar", "chunks_per_cpu_s"), "64 paced streams: chunks / CPU s", ">=", 10_700, 15_000, ",.0f"),
    (("sidecar", "added_first_chunk_p50_ms"), "first chunk added p50, begun in turn, ms", "<=", 5, 2, ".2f"),
    (("sidecar", "streams", "added_first_p50_ms"), "the same, all begun at once, ms", "<=", 5, 2, ".2f"),
    (("sidecar", "added_p50_ms"), "one at a time: added p50, ms", "<=", 1, 0.6, ".2f"),
    (("sidecar", "added_p99_ms"), "one at a time: added p99, ms", "<=", 5, 2.5, ".2f"),
    (("sidecar", "burst", "shed"), "burst of 500 on 100 slots: shed", "<=", 0, 0, ".0f"),
    (("sidecar", "burst", "decide_p99_ms"), "burst: p99 decision, ms", "<=", 50, 20, ".1f"),
    (("sidecar", "rss_idle_mb"), "RSS idle, MiB", "<=", 110, 80, ".0f"),
    (("sidecar", "rss_load_mb"), "RSS under load, MiB", "<=", 150, 110, ".0f"),
    (("sidecar", "ready_s"), "ready after start, s", "<=", 2, 1, ".1f"),
    (("sidecar", "cancel_ms", "unary", "max_ms"), "cancelled upstream, unary, ms", "<=", 50, 10, ".1f"),
    (("sidecar", "cancel_ms", "stream", "max_ms"), "cancelled upstream, stream, ms", "<=", 50, 10, ".1f"),
    (("sidecar", "slow_clients", "half_head_s"), "half a head: closed after, s", "<=", 30, 30, ".0f"),
    (("sidecar", "slow_clients", "half_body_s"), "half a body: closed after, s", "<=", 30, 30, ".0f"),
    (("sidecar", "slow_clients", "byte_a_second_s"), "1 byte a second: closed after, s", "<=", 30, 30, ".0f"),
    (("sidecar", "loop_lag_p99_ms"), "event loop late p99 at 70 %, ms", "<=", 10, 5, ".1f"),
)
"""Where a figure is, its words, what is required and gone for, and its format."""
RATIOS = (
    ("requests_per_cpu_s", "litellm", 25.0),
    ("requests_per_cpu_s", "portkey", 2.5),
    ("requests_per_cpu_s", "vllm_router", None),
    ("chunks_per_cpu_s", "litellm", 15.0),
)
"""The sidecar's figure as a multiple of another's, and what is required."""
BEHAVIOURS = (
    ("cancel_ms", "unary", "max_ms"),
    ("cancel_ms", "stream", "max_ms"),
    ("slow_clients", "half_head_s"),
    ("slow_clients", "half_body_s"),
    ("slow_clients", "byte_a_second_s"),
    ("behaviours", "one_of_four_resets", "answered"),
    ("behaviours", "one_of_four_says_429", "answered"),
    ("behaviours", "one_of_four_says_429", "asked_again_within_4_s"),
    ("behaviours", "stream_cut", "told_caller"),
    ("behaviours", "malformed_json", "status"),
)


def page(found: Figures) -> str:
    """Return all tables of a run."""
    parts = [main_table(found), goals_table(found), behaviours_table(found)]
    return "\n".join(["", _words(found), "", *parts])


def main_table(found: Figures) -> str:
    """Return the table of what every target costs."""
    rows = [
        [f"`{name}`", *(_cell(figures.get(key), form) for key, _, form in COLUMNS)]
        for name, figures in found["targets"].items()
    ]
    return _table(["target", *(heading for _, heading, _ in COLUMNS)], rows)


def goals_table(found: Figures) -> str:
    """Return the table of what the sidecar must reach, with a mark where it does not."""
    rows = []
    for where, words, sign, required, aim, form in GOALS:
        figure = at(found["targets"], where)
        limit, met = f"{sign} {required:,}", _met(figure, sign, required)
        rows.append([words, limit, f"{aim:,}", _cell(figure, form), met])
    for key, other, least in RATIOS:
        ours, theirs = at(found["targets"], ("sidecar", key)), at(found["targets"], (other, key))
        ratio = ours / theirs if ours and theirs else None
        words = f"{key.partition('_')[0]} / CPU s as a multiple of `{other}`'s"
        limit, aim_words = ("", "0.5") if least is None else (f">= {least:g}", "")
        met = "" if least is None else _met(ratio, ">=", least)
        rows.append([words, limit, aim_words, _cell(ratio, ".2f"), met])
    return _table(["what", "required", "go for", "measured", "met"], rows)


def behaviours_table(found: Figures) -> str:
    """Return what every target does with callers and model servers that misbehave."""
    names = [name for name, figures in found["targets"].items() if "cancel_ms" in figures]
    rows = [
        [" ".join(where).replace("_", " "), *(_seen(found["targets"][one], where) for one in names)]
        for where in BEHAVIOURS
    ]
    return _table(["", *(f"`{name}`" for name in names)], rows)


def at(figures: Any, where: Sequence[str]) -> Any:
    """Return the figure at a path; None: it is not there."""
    for key in where:
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    return figures


def _seen(figures: Any, where: Sequence[str]) -> str:
    """Return a cell: `never` for what was looked for and did not happen, a dash for the rest."""
    for key in where:
        if figures is None:
            return "never"
        if not isinstance(figures, Mapping) or key not in figures:
            return "-"
        figures = figures[key]
    return "never" if figures is None else _cell(figures, "g")


def _met(figure: float | None, sign: str, required: float) -> str:
    if figure is None:
        return "-"
    return "yes" if (figure >= required if sign == ">=" else figure <= required) else "**no**"


def _cell(figure: Any, form: str) -> str:
    if figure is None:
        return "-"
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return format(figure, form)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _words(found: Figures) -> str:
    about, targets = found["about"], found["targets"].values()
    dates = sorted({figures["date"] for figures in targets})
    commits = sorted({figures["commit"] or "unknown" for figures in targets})
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{' to '.join(dates if len(dates) < 2 else (dates[0], dates[-1]))}, commit {', '.join(commits)}; "
        f"{about['machine']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}; "
        f"{versions}."
    )
