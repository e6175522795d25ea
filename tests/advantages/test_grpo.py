import numpy as np
import pytest

from tspo.advantages.grpo import grpo


def advantages(outcome, num_turns, group_index, **options):
    turn_rewards = np.zeros((len(outcome), max(num_turns)))
    return grpo(
        turn_rewards,
        np.array(num_turns),
        np.array(group_index),
        np.array(outcome, dtype=np.float64),
        **options,
    )


def test_one_right_of_four():
    # mean 1/4, deviations 3/4 and -1/4, variance (9 + 3) / 16 / 3 = 1/4, std 1/2
    result = advantages([1, 0, 0, 0], [1, 2, 1, 3], [7, 7, 7, 7])
    up, down = 1.499997000006, -0.499999000002  # 0.75 and -0.25 over 0.500001
    expected = [[up, 0, 0], [down, down, 0], [down, 0, 0], [down, down, down]]
    np.testing.assert_allclose(result, expected, rtol=1e-11, atol=0)


def test_scale_none_is_the_deviation():
    result = advantages([1, 0, 0, 0], [1, 2, 1, 1], [7, 7, 7, 7], scale="none")
    assert result.tolist() == [[0.75, 0], [-0.25, -0.25], [-0.25, 0], [-0.25, 0]]


@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_constant_group_is_exactly_zero(scale, value, size):
    # 0.1 summed ten times is not ten times 0.1: the mean is off by a rounding, the advantage must not be
    assert not advantages([value] * size, [2] * size, [0] * size, scale=scale).any()


def test_groups_are_apart_and_may_be_mixed_and_of_any_label():
    mixed = advantages([1, 1, 0, 0, 1], [1] * 5, ["b", "a", "b", "c", "a"], scale="none")
    assert mixed.tolist() == [[0.5], [0], [-0.5], [0], [0]]


def test_sparse_labels_cost_no_memory():
    assert advantages([1, 0], [1, 1], [10**15, 10**15], scale="none").tolist() == [[0.5], [-0.5]]
