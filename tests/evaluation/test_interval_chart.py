import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from tspo.evaluation.charts import COLOURS, to_svg
from tspo.evaluation.interval_chart import Panel, interval_chart

LABELS = ["grpo", "tspo $<b>", "worse", "the same"]
DIFFERENCES = [
    None,
    {"mean": 0.2, "low": 0.1, "high": 0.3},
    {"mean": -0.2, "low": -0.3, "high": -0.1},
    {"mean": 0.0, "low": -0.1, "high": 0.1},
]


def test_a_row_a_label_in_their_order_and_what_is_clear_stands_out():
    figure = interval_chart(LABELS, [Panel("EM", DIFFERENCES), Panel("difference", DIFFERENCES, zero=True)])
    plain, compared = figure.axes
    assert [text.get_text() for text in plain.get_yticklabels()] == LABELS
    assert plain.yaxis_inverted()
    means = {int(line.get_ydata()[0]): line for line in compared.lines if line.get_marker() == "o"}
    assert {row: line.get_xdata()[0] for row, line in means.items()} == {1: 0.2, 2: -0.2, 3: 0.0}
    assert [to_hex(means[row].get_color()).upper() for row in (1, 2, 3)] == [COLOURS[1], COLOURS[1], COLOURS[0]]
    spans = [sorted(line.get_xdata()) for line in compared.lines if len(line.get_xdata()) == 2]
    assert spans[:3] == [[0.1, 0.3], [-0.3, -0.1], [-0.1, 0.1]]
    assert len(spans) == 4, "the line of no difference"
    assert len(plain.lines) == 6


def test_a_second_interval_is_thinner():
    (axis,) = interval_chart(["a"], [Panel("EM", [{**DIFFERENCES[1], "widest": (-0.1, 0.5)}])]).axes
    inner, outer, _ = axis.lines
    assert list(outer.get_xdata()) == [-0.1, 0.5]
    assert outer.get_linewidth() < inner.get_linewidth()


def test_words_are_text_and_the_same_numbers_the_same_bytes():
    figures = [interval_chart(LABELS, [Panel("EM", DIFFERENCES)]) for _ in range(2)]
    one, other = map(to_svg, figures)
    assert one == other
    texts = {element.text for element in ElementTree.fromstring(one).iter() if element.tag.endswith("text")}
    assert {*LABELS, "EM"} <= texts
