import math
import re

import pytest

from tspo.evaluation.report import curves as module
from tspo.evaluation.report.curves import curves, smoothing

pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """The series that were drawn, in place of drawing them."""
    seen = []
    monkeypatch.setattr(module, "line_chart", lambda series, **_: seen.append(series) or "<svg></svg>")
    return seen


def steps(count, **metrics):
    return [{"step": float(k + 1)} | {name: of(k) for name, of in metrics.items()} for k in range(count)]


def test_only_what_was_measured_is_drawn():
    found = curves(steps(3, entropy=float, kl=float))
    assert [curve.title for curve in found] == ["Entropy of the policy", "Distance from the start"]
    assert curves([]) == curves([{"step": 1.0}]) == []


def test_a_metric_that_came_later_adds_its_line_and_its_sentence(drawn):
    (without,) = curves(steps(3, grad_norm=float))
    (with_,) = curves(steps(3, grad_norm=float, grad_norm_all_wrong=float))
    assert with_.caption.startswith(without.caption)
    assert len(with_.caption) > len(without.caption)
    assert [[line.label for line in lines] for lines in drawn] == [[""], ["all groups", "all-wrong groups"]]


def test_lines_are_trailing_means_with_their_standard_error(drawn):
    curves(steps(6, entropy=lambda k: [0.0, 1.0, 2.0, 3.0, 4.0, 10.0][k]))
    ((line,),) = drawn
    assert line.x == [1, 2, 3, 4, 5, 6]
    assert line.y == [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]
    assert line.low[0] == line.high[0] == 0.0
    assert line.high[5] - line.y[5] == pytest.approx(math.sqrt(12.5 / 5))


def test_gaps_and_what_is_not_finite_are_left_out(drawn):
    curves([{"step": 1.0, "kl": 1.0}, {"step": 2.0}, {"step": 3.0, "kl": math.nan}, {"step": 4.0, "kl": 3.0}])
    ((line,),) = drawn
    assert (line.x, line.y) == ([1.0, 4.0], [1.0, 2.0])


def test_a_long_run_is_thinned_and_keeps_its_last_step(drawn):
    curves(steps(10_001, kl=float))
    ((line,),) = drawn
    assert len(line.x) <= 300
    assert line.x[-1] == 10_001
    assert line.y[-1] == pytest.approx(10_000 - 499 / 2)  # the mean of the last 500
    assert "the 499 before it" in smoothing(10_001)
    assert "the 4 before it" in smoothing(24)


def test_ids_of_charts_do_not_collide():
    found = curves(steps(3, entropy=float, kl=float, turns=float))
    ids = [name for curve in found for name in re.findall(r'\bid="([^"]+)"', curve.svg)]
    assert len(ids) == len(set(ids))
    used = [name for curve in found for name in re.findall(r'(?:url\(|href=")#([^")]+)', curve.svg)]
    assert used
    assert set(used) <= set(ids)
