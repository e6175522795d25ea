"""Means and intervals of many arms, a row each: what lines cannot show of more than a few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tspo.evaluation.charts import COLOURS, RC

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW, _PANEL, _CHARACTER = 0.3, 2.6, 0.075
"""Inches."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A mean and an interval (`low`, `high`) a row, `None` where there is none.

    A row may have a second interval, `widest`. `zero` draws the line of no difference.
    """

    title: str
    rows: Sequence[Mapping[str, Any] | None]
    zero: bool = False


def interval_chart(labels: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """The panels side by side, the rows from top to bottom in the order of `labels`, which the first panel bears.

    An interval that excludes zero in a panel with `zero` is drawn in another colour.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = _PANEL * len(panels) + _CHARACTER * max(map(len, labels))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, _ROW * len(labels) + 0.8), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, panel in zip(axes, panels, strict=True):
            for place, row in enumerate(panel.rows):
                if row is None:
                    continue
                clear = panel.zero and (row["low"] > 0 or row["high"] < 0)
                colour = COLOURS[1 if clear else 0]
                axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2)
                if "widest" in row:
                    axis.plot(row["widest"], [place, place], color=colour, linewidth=0.8)
                axis.plot([row["mean"]], [place], color=colour, marker="o", markersize=4.5)
            if panel.zero:
                axis.axvline(0, color="black", linewidth=0.8)
            axis.set_title(panel.title)
            axis.grid(axis="x", alpha=0.25)
            axis.tick_params(axis="y", length=0)
            axis.spines[["top", "right", "left"]].set_visible(False)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure
