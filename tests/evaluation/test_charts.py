import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("matplotlib")

from tspo.evaluation.charts import COLOURS, LINE_STYLES, Chart, Series, chart_grid, line_chart, to_png, to_svg

STEPS = [1.0, 2.0, 3.0]
TSPO = Series("tspo", STEPS, [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], [0.2, 0.3, 0.4])
GRPO = Series("grpo", STEPS, [0.1, 0.1, 0.2])


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_a_chart_is_one_svg_element_with_its_words_as_text():
    svg = line_chart([TSPO, GRPO], title="exact match", y_label="share")
    assert svg.startswith("<svg ")
    assert svg.rstrip().endswith("</svg>")
    assert {"exact match", "share", "step", "tspo", "grpo"} <= set(texts(svg))


def test_the_same_numbers_give_the_same_bytes():
    assert line_chart([TSPO], title="t", y_label="y") == line_chart([TSPO], title="t", y_label="y")
    figures = [chart_grid([Chart([TSPO, GRPO], "t", "y")] * 3) for _ in range(2)]
    assert len({to_svg(figure) for figure in figures}) == 1
    assert len({to_png(figure) for figure in figures}) == 1
    assert to_png(figures[0]).startswith(b"\x89PNG")


def test_words_are_not_taken_for_formulas_or_markup():
    label = 'cost $x_1 <b>&"'
    assert label in texts(line_chart([Series(label, STEPS, STEPS), Series("_hidden", [], [])], title="$", y_label="$"))
    assert "_hidden" in texts(line_chart([Series("_hidden", STEPS, STEPS)], title="t", y_label="y"))


def test_a_series_without_a_label_has_no_legend():
    assert "tspo" not in texts(line_chart([Series("", STEPS, STEPS)], title="t", y_label="y"))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_grid_has_every_chart_once_and_one_legend(count):
    charts = [Chart([TSPO, GRPO], f"chart {k}", "y") for k in range(count)]
    shown = texts(to_svg(chart_grid(charts)))
    assert [text for text in shown if text.startswith("chart")] == [chart.title for chart in charts]
    assert shown.count("tspo") == shown.count("grpo") == 1


def test_one_point_no_points_and_gaps_can_be_drawn():
    nan = float("nan")
    line_chart(
        [Series("one", [1], [0.5]), Series("none", [], []), Series("gap", STEPS, [0.1, nan, 0.2])],
        title="t",
        y_label="y",
    )


@pytest.mark.filterwarnings("error")
def test_a_legend_of_many_long_names_leaves_the_charts_their_room():
    many = [Series(f"{'a long name of an arm ' * 3}{k}", STEPS, STEPS) for k in range(14)]
    figure = chart_grid([Chart(many, "t", "y")])
    to_svg(figure)
    axes = figure.axes[0].get_position()
    assert axes.height * figure.get_figheight() > 1.2


def test_many_series_are_told_apart():
    looks = {(COLOURS[k % len(COLOURS)], str(LINE_STYLES[k % len(LINE_STYLES)])) for k in range(35)}
    assert len(looks) == 35


def test_each_chart_may_have_a_legend_of_its_own():
    charts = [Chart([Series(name, [0.0, 1.0], [0.0, 1.0])], name, "y") for name in ("one", "two")]
    charts.append(Chart([Series("", [0.0, 1.0], [0.0, 1.0])], "three", "y"))
    figure = chart_grid(charts, one_legend=False)
    assert figure.legends == []
    legends = [panel.get_legend() for panel in figure.axes[:3]]
    assert [legend and [text.get_text() for text in legend.get_texts()] for legend in legends] == [
        ["one"],
        ["two"],
        None,
    ]
