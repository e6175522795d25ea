from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.evaluation.pass_at_k import pass_at_each_k, pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_it_is_the_share_of_draws_that_hold_a_right_try(numbers):
    tries, right, k = numbers
    draws = list(combinations([1] * right + [0] * (tries - right), k))
    assert pass_at_k(tries, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_one_try_is_the_share_of_right_ones(numbers):
    tries, right = numbers
    assert pass_at_k(tries, right, 1) == pytest.approx(right / tries)


@pytest.mark.parametrize("numbers", [(3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_numbers_that_make_no_sense(numbers):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(*numbers)


def test_ks_are_powers_of_two_and_the_least_number_of_tries():
    assert {k: list(values) for k, values in pass_at_each_k([(5, 0), (6, 6)]).items()} == {
        1: [0, 1],
        2: [0, 1],
        4: [0, 1],
        5: [0, 1],
    }
    assert list(pass_at_each_k([(8, 1)])) == [1, 2, 4, 8]


def test_one_try_has_no_pass_at_k():
    assert pass_at_each_k([(1, 1), (5, 2)]) == {}
    assert pass_at_each_k([]) == {}
