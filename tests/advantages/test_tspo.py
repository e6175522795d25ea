import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.advantages.grpo import grpo
from tspo.advantages.tspo import tspo
from tspo.rewards.folr import NO_OCCURRENCE, turn_rewards

SCALES = ["std", "none"]
BASELINES = ["absorbing", "reached"]
LEVELS = ["turn", "turn_if_all_wrong"]

# A right in 2 turns; B wrong in 3, found in its 2nd; C wrong in 1; D wrong in 2, found in its 1st
OUTCOME = np.array([1.0, 0.0, 0.0, 0.0])
NUM_TURNS = np.array([2, 3, 1, 2])
FIRST = np.array([NO_OCCURRENCE, 1, NO_OCCURRENCE, 0])
ONE_GROUP = np.zeros(4, dtype=np.int64)


def worked_group(credit="first_turn", **options):
    rewards = turn_rewards(OUTCOME, NUM_TURNS, FIRST, alpha=0.5, credit=credit)
    return tspo(rewards, NUM_TURNS, ONE_GROUP, OUTCOME, scale="none", **options).tolist()


def test_absorbing_baseline():
    # S_0 = {1, 0, 0, 1/2}, S_1 = {1, 1/2, 0, 0}, S_2 = {1, 0, 0, 0}: means 3/8, 3/8, 1/4
    assert worked_group() == [[0.625, 0.625, 0], [-0.375, 0.125, -0.25], [-0.375, 0, 0], [0.125, -0.375, 0]]


def test_absorbing_baseline_through_first_turn():
    # S_0 = {1, 1/2, 0, 1/2}, S_1 = {1, 1/2, 0, 0}, S_2 = {1, 0, 0, 0}: means 1/2, 3/8, 1/4
    expected = [[0.5, 0.625, 0], [0, 0.125, -0.25], [-0.5, 0, 0], [0, -0.375, 0]]
    assert worked_group("through_first_turn") == expected


def test_absorbing_keeps_the_last_reward_of_a_near_miss_that_ended():
    rewards = turn_rewards([0, 0], [1, 2], [0, NO_OCCURRENCE], alpha=1.0)
    result = tspo(rewards, np.array([1, 2]), np.zeros(2, int), np.zeros(2), scale="none")
    assert result.tolist() == [[0.5, 0], [-0.5, -0.5]]


def test_reached_baseline():
    # S_0 = {1, 0, 0, 1/2}, S_1 = {1, 1/2, 0}, S_2 = {0}: means 3/8, 1/2, and one member
    expected = [[0.625, 0.5, 0], [-0.375, 0, 0], [-0.375, 0, 0], [0.125, -0.5, 0]]
    assert worked_group(baseline="reached") == expected


@pytest.mark.parametrize("baseline", BASELINES)
def test_level_turn_if_all_wrong_is_grpo_where_one_is_right(baseline):
    expected = [[0.75, 0.75, 0], [-0.25, -0.25, -0.25], [-0.25, 0, 0], [-0.25, -0.25, 0]]
    assert worked_group(baseline=baseline, level="turn_if_all_wrong") == expected


@pytest.mark.parametrize("level", LEVELS)
def test_std_in_a_group_that_is_all_wrong(level):
    # S_0 = {1/2, 0, 0, 0}: mean 1/8, deviations 3/8 and -1/8, variance (9 + 3) / 64 / 3 = 1/16, std 1/4
    # S_1 = {0, 0, 0, 0}
    rewards = turn_rewards([0] * 4, [2] * 4, [0, -1, -1, -1], alpha=0.5)
    result = tspo(rewards, np.full(4, 2), ONE_GROUP, np.zeros(4), level=level)
    up, down = 1.499994000024, -0.499998000008  # 0.375 and -0.125 over 0.250001
    np.testing.assert_allclose(result, [[up, 0], [down, 0], [down, 0], [down, 0]], rtol=1e-11, atol=0)


@st.composite
def batches(draw, near_misses=True):
    """Outcome, num_turns, first occurrence and group of a few trajectories."""
    n = draw(st.integers(1, 14))
    num_turns = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    outcome = draw(st.lists(st.sampled_from([0.0, 0.0, 1.0]), min_size=n, max_size=n))
    group = draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n))
    found = [near_misses or right for right in outcome]
    first = [draw(st.integers(-1, k - 1)) if f else -1 for k, f in zip(num_turns, found, strict=True)]
    return np.array(outcome), np.array(num_turns), np.array(first), np.array(group)


alphas = st.floats(0.0, 1.0)
rules = st.sampled_from(["first_turn", "through_first_turn"])
options = st.fixed_dictionaries(
    {
        "scale": st.sampled_from(SCALES),
        "baseline": st.sampled_from(BASELINES),
        "level": st.sampled_from(LEVELS),
    }
)


@given(batches(near_misses=False), alphas, rules, st.sampled_from(SCALES), st.sampled_from(LEVELS))
def test_without_a_near_miss_absorbing_is_grpo_bit_for_bit(batch, alpha, credit, scale, level):
    outcome, num_turns, first, group = batch
    rewards = turn_rewards(outcome, num_turns, first, alpha=alpha, credit=credit)
    result = tspo(rewards, num_turns, group, outcome, scale=scale, level=level)
    assert np.array_equal(result, grpo(rewards, num_turns, group, outcome, scale=scale))


@given(batches(), rules, st.sampled_from(SCALES), st.sampled_from(LEVELS))
def test_alpha_zero_with_absorbing_is_grpo_bit_for_bit(batch, credit, scale, level):
    outcome, num_turns, first, group = batch
    rewards = turn_rewards(outcome, num_turns, first, alpha=0.0, credit=credit)
    result = tspo(rewards, num_turns, group, outcome, scale=scale, level=level)
    assert np.array_equal(result, grpo(rewards, num_turns, group, outcome, scale=scale))


def test_a_near_miss_departs_from_grpo():
    rewards = turn_rewards(OUTCOME, NUM_TURNS, FIRST)
    assert not np.array_equal(
        tspo(rewards, NUM_TURNS, ONE_GROUP, OUTCOME), grpo(rewards, NUM_TURNS, ONE_GROUP, OUTCOME)
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.floats(0.0, 1.0), options)
def test_a_constant_group_is_exactly_zero(num_turns, value, options):
    num_turns = np.array(num_turns)
    rewards = np.where(np.arange(num_turns.max()) < num_turns[:, None], value, 0.0)
    outcome = np.full(len(num_turns), float(value == 1.0))
    assert not tspo(rewards, num_turns, np.zeros(len(num_turns), int), outcome, **options).any()


@given(batches(), alphas, rules, options, st.randoms())
def test_permuting_members_permutes_advantages(batch, alpha, credit, options, random):
    outcome, num_turns, first, group = batch
    rewards = turn_rewards(outcome, num_turns, first, alpha=alpha, credit=credit)
    order = list(range(len(outcome)))
    random.shuffle(order)
    result = tspo(rewards, num_turns, group, outcome, **options)
    permuted = tspo(rewards[order], num_turns[order], group[order], outcome[order], **options)
    # the sums are taken in another order
    np.testing.assert_allclose(permuted, result[order], rtol=1e-9, atol=1e-12)


@given(batches(), alphas, rules, options)
def test_other_groups_do_not_matter(batch, alpha, credit, options):
    outcome, num_turns, first, group = batch
    rewards = turn_rewards(outcome, num_turns, first, alpha=alpha, credit=credit)
    together = tspo(rewards, num_turns, group, outcome, **options)
    for label in np.unique(group):
        own = group == label
        alone = tspo(rewards[own], num_turns[own], group[own], outcome[own], **options)
        assert np.array_equal(alone, together[own])
