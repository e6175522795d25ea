"""Line charts of a few series with bands, as SVG and PNG that are the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers (their yellow is too pale for a line on white). The
# line style says it once more; seven and five have no common factor, so that 35 series are told apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))

RC: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a $ in somebody's label is a $
    "svg.fonttype": "none",  # text stays text: searchable, and in the reader's font
    "svg.hashsalt": "tspo",
    "path.simplify": True,
}
_LEGEND_CHARACTERS_PER_INCH = 14
_LEGEND_ROWS, _LEGEND_ROW = 2, 0.2
"""Rows of a legend that a figure has room for, and inches that it grows by for each other."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `y` over `x`, and where both are given the band from `low` to `high`; all of one length.

    A NaN is a gap. A series without a label is not in the legend.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """The series of one pair of axes and what is written around them."""

    series: Sequence[Series]
    title: str
    y_label: str
    x_label: str = "step"


def line_chart(
    series: Sequence[Series], *, title: str, y_label: str, x_label: str = "step", size: tuple[float, float] = (4.2, 2.6)
) -> str:
    """One chart as an `<svg>` element, without an XML declaration: for a file of its own or inside HTML.

    `size` is width and height in inches of 72 points.
    """
    return to_svg(chart_grid([Chart(series, title, y_label, x_label)], columns=1, size=size))


def chart_grid(
    charts: Sequence[Chart],
    columns: int = 2,
    size: tuple[float, float] = (4.2, 2.6),
    one_legend: bool = True,
) -> Figure:
    """Charts side by side, `columns` a row, each of `size` inches; one legend below them all, or one in each.

    Series of the same place in their charts look the same, and those of the same label share a place in the legend.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(charts)))
    rows = -(-len(charts) // columns)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        lines: dict[str, Any] = {}
        for panel, chart in zip(panels, charts, strict=False):
            drawn = _draw(panel, chart)
            if one_legend:
                lines = drawn | lines
            elif drawn:
                panel.legend(list(drawn.values()), list(drawn), frameon=False, handlelength=3)
        for panel in panels[len(charts) :]:
            panel.set_axis_off()
        if lines:
            # As many columns as the longest label leaves room for, so that the legend stays within the figure.
            width = max(map(len, lines)) + 6
            fitting = max(1, int(figure.get_figwidth() * _LEGEND_CHARACTERS_PER_INCH / width))
            more = max(-(-len(lines) // fitting) - _LEGEND_ROWS, 0)
            figure.set_figheight(size[1] * rows + _LEGEND_ROW * more)
            figure.legend(
                list(lines.values()),
                list(lines),
                loc="outside lower center",
                ncols=min(fitting, len(lines)),
                frameon=False,
                handlelength=3,
            )
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG of 150 dots an inch."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def _draw(panel: Axes, chart: Chart) -> dict[str, Any]:
    """Draw a chart's series; returns their lines by label."""
    from matplotlib.ticker import MaxNLocator

    lines = {}
    for place, series in enumerate(chart.series):
        colour, style = COLOURS[place % len(COLOURS)], LINE_STYLES[place % len(LINE_STYLES)]
        if series.low is not None and series.high is not None:
            panel.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
        # One point makes no line, and would not be seen without a marker.
        marker = "o" if len(series.x) == 1 else None
        (line,) = panel.plot(
            series.x, series.y, color=colour, linestyle=style, linewidth=1.6, marker=marker, markersize=4
        )
        if series.label:
            lines[series.label] = line
    if all(float(x).is_integer() for series in chart.series for x in series.x):
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))  # no half steps
    panel.set_title(chart.title)
    panel.set_xlabel(chart.x_label)
    panel.set_ylabel(chart.y_label)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    return lines
