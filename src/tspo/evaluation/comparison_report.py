"""The report of a comparison from its finished runs: numbers, tables and charts, as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from tspo.errors import BadInput
from tspo.evaluation.charts import Chart, Series, chart_grid, to_png, to_svg
from tspo.evaluation.compared_arms import CURVES, ArmRuns, compare_arms
from tspo.evaluation.comparison_table import format_report
from tspo.evaluation.interval_chart import Panel, interval_chart
from tspo.evaluation.run_results import read_run
from tspo.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHART_WORDS = {
    "exact_match": ("exact match", "share of episodes"),
    "answer_in_feedback": ("answer in feedback", "share of episodes"),
    "near_miss_share": ("near misses", "share of episodes"),
    "searches": ("searches", "per episode"),
}
"""Title and unit of each of CURVES."""

_TITLE_WIDTH = 36
"""Characters of a line in a chart's title."""


def write_report(
    folder: Path,
    finished: Mapping[str, Mapping[int, Path]],
    episodes_per_rollout: Mapping[str, int],
    unfinished: Mapping[str, Sequence[int]],
    target: float,
    against: str | None = None,
) -> str:
    """Write `compare.json`, `compare.md`, and `curves` and `arms` as SVG and PNG to `folder`; returns the tables.

    `finished` has the run folders by arm and seed, `unfinished` the seeds that are missing; `target` is the exact
    match to reach, `against` the arm that others are compared with, by default the first. Raises BadInput where no run
    is finished, that arm has none, or one cannot be read.
    """
    arms = {
        arm: ArmRuns({seed: read_run(path) for seed, path in sorted(runs.items())}, episodes_per_rollout[arm])
        for arm, runs in finished.items()
        if runs
    }
    if not arms:
        raise BadInput(f"{folder}: no run is finished yet, so that there is nothing to report")
    if against is not None and against not in arms:
        raise BadInput(f"--against {against!r}: no arm with a finished run; there are: {', '.join(map(repr, arms))}")
    report = compare_arms(arms, target, against)
    report["unfinished"] = {arm: list(seeds) for arm, seeds in unfinished.items()}
    tables = format_report(report)
    figures = {"curves": chart_grid(learning_charts(report)), "arms": arms_chart(report)}
    with atomic_write(folder / "compare.json") as stream:
        json.dump(report, stream, indent=1, allow_nan=False)
    with atomic_write(folder / "compare.md") as stream:
        stream.write(
            f"{tables}\n![Exact match of the arms, and how they differ, with 95 % intervals](arms.svg)\n\n"
            "![Learning curves: mean over seeds and 95 % band](curves.svg)\n"
        )
    for name, figure in figures.items():
        with atomic_write(folder / f"{name}.svg") as stream:
            stream.write(to_svg(figure))
        with atomic_write(folder / f"{name}.png") as stream:
            stream.buffer.write(to_png(figure))
    return tables


def arms_chart(report: Mapping[str, Any]) -> Figure:
    """A row an arm: exact match on held-out questions, its difference from the baseline's, area under EM.

    The difference has two intervals, its own and, thinner, the one that holds for all arms at once.
    """
    arms, differences = report["arms"], report["differences"]
    held_out = [arm["held_out"]["metrics"].get("exact_match") for arm in arms.values()]
    held_out_differences = [(differences.get(name) or {}).get("held_out", {}).get("exact_match") for name in arms]
    title = fill(f"difference from {report['baseline']}", _TITLE_WIDTH)
    panels = [
        Panel("exact match, held out", held_out),
        Panel(
            title,
            [row and row["absolute"] | {"widest": row["simultaneous"]} for row in held_out_differences],
            zero=True,
        ),
        Panel("area under EM in training", [arm["learning"] and arm["learning"]["area"] for arm in arms.values()]),
    ]
    return interval_chart(list(arms), panels if differences else [panels[0], panels[2]])


def learning_charts(report: Mapping[str, Any]) -> list[Chart]:
    """A chart a metric, a series an arm: the smoothed mean over seeds and its band."""
    charts = []
    for metric in CURVES:
        curves = {name: arm["curves"].get(metric) for name, arm in report["arms"].items()}
        if any(curves.values()):
            # An arm without this metric keeps its place, so that no other arm takes its colour.
            series = [Series(name, **curve) if curve else Series(name, [], []) for name, curve in curves.items()]
            charts.append(Chart(series, *_CHART_WORDS[metric]))
    return charts
