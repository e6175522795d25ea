from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tspo.evaluation import comparison
from tspo.evaluation.comparison import (
    area_under_curve,
    crossed_estimates,
    crossed_means,
    first_and_last_third,
    first_at_target,
    median_reached,
    paired_differences,
    seed_band,
    trailing_mean,
)

shares = st.floats(0, 1)
curves = st.lists(shares, min_size=1, max_size=30)
tables = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([0.0, 0.5, 1.0]))


@given(curves, st.integers(1, 8))
def test_the_trailing_mean_is_the_mean_of_what_came_last(curve, width):
    smoothed = trailing_mean(curve, width)
    width = min(width, len(curve))
    assert len(smoothed) == len(curve) - width + 1
    for t, value in enumerate(smoothed):
        assert value == pytest.approx(sum(curve[t : t + width]) / width)


def test_no_steps_have_no_trailing_mean():
    assert trailing_mean([]).size == 0


@given(curves, shares)
def test_the_first_step_at_a_target(curve, target):
    place = first_at_target(curve, target)
    if place is None:
        assert max(curve) < target
    else:
        assert curve[place] >= target - 1e-8
        assert all(value < target for value in curve[:place])


@given(curves, shares, shares)
def test_a_higher_target_is_not_reached_earlier(curve, one, other):
    early, late = (first_at_target(curve, target) for target in sorted([one, other]))
    assert late is None or (early is not None and early <= late)


def test_a_share_that_is_the_target_on_paper_reaches_it():
    assert first_at_target(trailing_mean([0.1, 0.2, 0.3, 0.4, 0.5]), 0.3) == 0


@pytest.mark.parametrize(
    ("places", "median"),
    [
        ([3], 3),
        ([1, 9, 5], 5),
        ([None, 2, 4], 4),
        ([None, 2], None),
        ([None, 2, 4, 6], 5),
        ([None, None, 4], None),
        ([None], None),
    ],
)
def test_never_counts_as_infinitely_late(places, median):
    assert median_reached(places) == median


def test_the_area_is_the_mean():
    assert area_under_curve([0.0, 0.5, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("steps", "values", "total", "thirds"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], 7, (1.5, 6.5)),
        ([1, 2], [2, 4], 2, (2, 4)),
        ([1], [3], 1, (3, 3)),
        ([2, 6], [5, 7], 6, (5, 7)),
        ([3, 4], [5, 7], 6, (None, None)),
        ([1, 4], [5, 7], 6, (5, None)),
    ],
)
def test_thirds_are_of_the_steps_and_not_of_the_values(steps, values, total, thirds):
    assert first_and_last_third(steps, values, total) == thirds


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=shares))
def test_a_band_holds_the_mean_curve_and_stays_within_the_curves(table):
    low, high = seed_band(table, samples=500)
    assert (low <= table.mean(axis=0) + 1e-9).all()
    assert (high >= table.mean(axis=0) - 1e-9).all()
    assert (low >= table.min(axis=0) - 1e-9).all()
    assert (high <= table.max(axis=0) + 1e-9).all()


def test_a_band_does_not_depend_on_how_it_is_cut_into_blocks(monkeypatch):
    table = np.random.default_rng(0).random((4, 50))
    whole = seed_band(table, samples=200)
    monkeypatch.setattr(comparison, "_BLOCK", 600)
    assert np.allclose(whole, seed_band(table, samples=200))


def test_crossed_means_are_those_of_the_drawn_rows_and_columns():
    """Against the same draws written out as a loop."""
    table = np.random.default_rng(1).random((3, 4))
    generator = np.random.default_rng(7)
    u = generator.multinomial(3, np.full(3, 1 / 3), size=20)
    v = generator.multinomial(4, np.full(4, 1 / 4), size=20)
    expected = []
    for rows, columns in zip(u, v, strict=True):
        drawn = np.repeat(np.repeat(table, rows, axis=0), columns, axis=1)
        expected.append(drawn.mean())
    assert np.allclose(crossed_means(table[None], samples=20, seed=7)[:, 0], expected)


@given(tables, st.integers(0, 5))
def test_the_seed_decides(table, seed):
    assert (crossed_means(table[None], 50, seed) == crossed_means(table[None], 50, seed)).all()


def test_another_seed_is_another_draw():
    table = np.random.default_rng(0).random((1, 5, 20))
    assert (crossed_means(table, 50, 0) != crossed_means(table, 50, 1)).any()


@given(tables)
def test_an_estimate_holds_its_mean(table):
    (estimate,) = crossed_estimates(table[None], samples=500)
    assert estimate.mean == pytest.approx(table.mean())
    assert table.min() - 1e-9 <= estimate.low <= estimate.high <= table.max() + 1e-9


def test_seeds_make_the_interval_wider_than_questions_alone():
    """Scores that differ by seed only: more questions are no more evidence."""
    by_seed = np.repeat([[0.0], [0.5], [1.0]], 200, axis=1)
    (estimate,) = crossed_estimates(by_seed[None])
    assert estimate.low == 0.0
    assert estimate.high == 1.0


@given(tables)
def test_identical_arms_differ_by_exactly_nothing(table):
    (difference,) = paired_differences(table[None], table[None], samples=200)
    assert (difference.absolute.mean, difference.absolute.low, difference.absolute.high) == (0.0, 0.0, 0.0)
    assert difference.relative == (None if table.mean() == 0 else 0.0)
    assert difference.relative_interval in (None, (0.0, 0.0))
    assert (difference.seeds, difference.questions) == table.shape


@given(tables, st.integers(0, 3))
def test_swapping_the_arms_flips_the_sign(table, seed):
    other = np.random.default_rng(seed).random(table.shape)
    (one,) = paired_differences(table[None], other[None], samples=200)
    (swapped,) = paired_differences(other[None], table[None], samples=200)
    assert one.absolute.mean == -swapped.absolute.mean
    assert one.absolute.low == pytest.approx(-swapped.absolute.high)
    assert one.absolute.high == pytest.approx(-swapped.absolute.low)


@given(tables, st.floats(-0.5, 0.5))
def test_the_interval_of_a_constant_difference_is_that_constant(table, constant):
    (difference,) = paired_differences(table[None] + constant, table[None], samples=200)
    for number in (difference.absolute.mean, difference.absolute.low, difference.absolute.high):
        assert number == pytest.approx(constant)


def test_the_relative_difference_is_that_of_the_means():
    base = np.full((2, 3), 0.4)
    (difference,) = paired_differences(base[None] * 1.5, base[None])
    assert difference.relative == pytest.approx(0.5)
    assert difference.relative_interval == pytest.approx((0.5, 0.5))


def test_a_relative_difference_from_nothing_is_undefined():
    (difference,) = paired_differences(np.ones((1, 2, 3)), np.zeros((1, 2, 3)))
    assert difference.absolute.mean == 1.0
    assert difference.relative is None
    assert difference.relative_interval is None


def test_a_relative_interval_is_undefined_where_a_resample_is_nothing():
    base = np.zeros((1, 2, 5))
    base[0, 0, 0] = 1.0
    (difference,) = paired_differences(np.ones((1, 2, 5)), base)
    assert difference.relative == pytest.approx(9.0)
    assert difference.relative_interval is None


def test_tables_are_compared_each_with_its_own():
    scores, others = np.random.default_rng(0).random((2, 3, 2, 4))
    together = paired_differences(scores, others, samples=100)
    alone = [paired_differences(scores[k : k + 1], others[k : k + 1], samples=100)[0] for k in range(3)]
    for one, other in zip(together, alone, strict=True):
        assert one.absolute.low == pytest.approx(other.absolute.low)
        assert one.relative_interval == pytest.approx(other.relative_interval)


@given(tables)
def test_the_interval_of_one_comparison_is_its_own(table):
    (difference,) = paired_differences(table[None], np.zeros((1, *table.shape)), samples=200)
    assert difference.simultaneous == (difference.absolute.low, difference.absolute.high)


def test_intervals_that_hold_at_once_are_as_wide_as_a_normal_mean_wants():
    table = np.random.default_rng(0).normal(size=(1, 400, 1))
    (difference,) = paired_differences(table, np.zeros_like(table), comparisons=11, samples=40_000)
    low, high = difference.simultaneous
    own = difference.absolute.high - difference.absolute.low
    assert (high - low) / own == pytest.approx(NormalDist().inv_cdf(1 - 0.025 / 11) / NormalDist().inv_cdf(0.975), 0.05)


@pytest.mark.parametrize(
    "table", [np.zeros((1, 0, 3)), np.zeros((1, 3, 0)), np.zeros((3, 3)), np.full((1, 1, 1), np.nan)]
)
def test_tables_that_cannot_be_resampled_are_refused(table):
    with pytest.raises(ValueError, match="tables must be"):
        crossed_means(table)


def test_tables_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        paired_differences(np.zeros((1, 2, 3)), np.zeros((1, 3, 2)))
