"""The curves of one run or several, laid over each other: the same smoothing as in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo.evaluation.report.curves import PLANS, smoothed, smoothing


def charts(runs: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    """Each metric's chart: title, caption, unit, and a line a run; `smoothing` says how they are to be read."""
    drawn, planned = [], set()
    for plan in PLANS:
        for metric, label in plan.metrics.items():
            planned.add(metric)
            title = f"{plan.title}: {label}" if len(plan.metrics) > 1 else plan.title
            drawn += _chart(runs, metric, title, plan.caption, plan.y_label)
    others = sorted({name for run in runs for step in run for name in step} - planned - {"step"})
    for metric in others:
        drawn += _chart(runs, metric, metric, "", "", main=False)
    return {"charts": drawn, "smoothing": smoothing(max((len(run) for run in runs), default=0))}


def _chart(
    runs: Sequence[Sequence[dict[str, float]]], metric: str, title: str, caption: str, unit: str, *, main: bool = True
) -> list[dict[str, Any]]:
    lines = []
    for number, run in enumerate(runs):
        series = smoothed("", run, metric)
        if len(series.x):
            lines.append(
                {
                    "run": number,
                    "x": list(series.x),
                    "y": _rounded(series.y),
                    "low": _rounded(series.low or ()),
                    "high": _rounded(series.high or ()),
                }
            )
    if not lines:
        return []
    return [{"metric": metric, "title": title, "caption": caption, "unit": unit, "main": main, "lines": lines}]


def _rounded(values: Sequence[float]) -> list[float]:
    """Six significant digits, which no eye can tell from more."""
    return [float(f"{value:.6g}") for value in values]
