"""What holds for every estimator, and what defines each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.advantages import ADVANTAGES
from tspo.advantages.ppo import gae
from tspo.advantages.returns import returns_to_go

NAMES = [name for name in ADVANTAGES if name != "tspo"]
BY_GROUP = [name for name in NAMES if ADVANTAGES[name].over == "group"]
values = st.sampled_from([-1.0, -0.25, 0.0, 0.0, 0.5, 1.0])


@st.composite
def batches(draw, smallest_group=1):
    """Turn rewards (N, K), num_turns (N,) and group (N,) of up to four groups, members in any order."""
    sizes = draw(st.lists(st.integers(smallest_group, 5), min_size=1, max_size=4))
    group = np.array(draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())))
    num_turns = draw(st.lists(st.integers(1, 4), min_size=len(group), max_size=len(group)))
    rows = [draw(st.lists(values, min_size=k, max_size=k)) + [0.0] * (max(num_turns) - k) for k in num_turns]
    return np.array(rows), np.array(num_turns), group


def reached(num_turns, width):
    return np.arange(width) < num_turns[:, None]


def state_labels(rewards, group):
    """Two states a group: that of the first turns, and that of all later ones."""
    return 2 * np.asarray(group)[:, None] + (np.arange(rewards.shape[1]) > 0)


def advantages(name, batch, **options):
    rewards, num_turns, group = batch
    given_ = {
        "anchors": state_labels(rewards, group),
        "turn_tokens": np.ones(rewards.shape),
        "values": rewards**2 - 0.25,
    }
    inputs = {input_: given_[input_] for input_ in ADVANTAGES[name].inputs}
    return ADVANTAGES[name].advantages(rewards, num_turns, group, rewards.sum(1), **inputs | options)


every_estimator = pytest.mark.parametrize("name", NAMES)
by_group = pytest.mark.parametrize("name", BY_GROUP)


@every_estimator
@given(batch=batches())
def test_zero_past_the_end_and_finite(name, batch):
    result = advantages(name, batch)
    assert result.shape == batch[0].shape
    assert np.isfinite(result).all()
    assert not result[~reached(batch[1], result.shape[1])].any()


@every_estimator
@given(batch=batches(), padding=st.integers(1, 3))
def test_padding_changes_nothing(name, batch, padding):
    rewards, num_turns, group = batch
    wider = np.pad(rewards, ((0, 0), (0, padding)))
    result = advantages(name, (wider, num_turns, group))
    np.testing.assert_allclose(result[:, : rewards.shape[1]], advantages(name, batch), rtol=1e-9, atol=1e-12)


@every_estimator
@given(batch=batches(), random=st.randoms())
def test_permuting_members_permutes_advantages(name, batch, random):
    order = list(range(len(batch[2])))
    random.shuffle(order)
    permuted = advantages(name, tuple(part[order] for part in batch))
    np.testing.assert_allclose(permuted, advantages(name, batch)[order], rtol=1e-9, atol=1e-9)


@by_group
@given(batch=batches())
def test_other_groups_do_not_matter(name, batch):
    together = advantages(name, batch)
    for label in np.unique(batch[2]):
        own = batch[2] == label
        np.testing.assert_allclose(
            advantages(name, tuple(part[own] for part in batch)), together[own], rtol=1e-9, atol=1e-12
        )


@by_group
@given(batch=batches())
def test_a_group_of_one_trajectory_of_one_turn_gets_nothing(name, batch):
    _, num_turns, group = batch
    alone = np.bincount(group)[group] == 1
    assert not advantages(name, batch)[alone & (num_turns == 1)].any()


@pytest.mark.parametrize("name", [name for name in BY_GROUP if name not in ("gigpo", "igpo")])
@given(batch=batches(), shift=st.sampled_from([-2.0, 0.5, 3.0]))
def test_what_all_outcomes_earn_more_cancels(name, batch, shift):
    """Not in gigpo, where discounted returns have different shares of it, nor in igpo, which compares all rewards."""
    rewards, num_turns, group = batch
    moved = rewards.copy()
    moved[np.arange(len(rewards)), num_turns - 1] += shift
    result, expected = advantages(name, (moved, num_turns, group)), advantages(name, batch)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-9)


@given(batch=batches(smallest_group=2))
def test_rloo_is_the_reward_less_the_mean_of_the_others(batch):
    rewards, num_turns, group = batch
    totals = rewards.sum(1)
    result = advantages("rloo", batch)
    for i in range(len(group)):
        others = np.delete(totals, i)[np.delete(group, i) == group[i]]
        np.testing.assert_allclose(result[i, : num_turns[i]], totals[i] - others.mean(), atol=1e-12)


@given(batch=batches(smallest_group=2))
def test_rloo_is_dr_grpo_times_g_over_g_minus_1(batch):
    size = np.bincount(batch[2])[batch[2]][:, None]
    np.testing.assert_allclose(
        advantages("rloo", batch), advantages("dr_grpo", batch) * size / (size - 1), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
@given(batch=batches())
def test_a_group_sums_to_zero_over_trajectories(name, batch):
    sums = np.bincount(batch[2], advantages(name, batch)[:, 0])
    np.testing.assert_allclose(sums, 0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
@given(batch=batches(), random=st.randoms())
def test_reinforce_plus_plus_is_normal_over_the_tokens_of_the_batch(name, batch, random):
    rewards, num_turns, _ = batch
    turns = reached(num_turns, rewards.shape[1])
    tokens = np.array([[float(random.randint(1, 9)) for _ in row] for row in rewards])
    result = advantages(name, batch, turn_tokens=tokens)
    if not result.any():
        return
    every_token = np.repeat(result[turns], tokens[turns].astype(int))
    assert every_token.mean() == pytest.approx(0.0, abs=1e-9)
    assert every_token.std(ddof=1) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
@given(batch=batches(), scale=st.sampled_from([0.5, 2.0, 10.0]))
def test_reinforce_plus_plus_does_not_know_the_scale_of_rewards(name, batch, scale):
    rewards, num_turns, group = batch
    scaled = advantages(name, (rewards * scale, num_turns, group))
    np.testing.assert_allclose(scaled, advantages(name, batch), rtol=1e-4, atol=1e-4)


@given(batch=batches())
def test_mt_grpo_adds_to_the_outcome_before_the_last_turn_only(batch):
    rewards, num_turns, group = batch
    last = rewards[np.arange(len(rewards)), num_turns - 1]
    of_outcome = ADVANTAGES["grpo"].advantages(rewards, num_turns, group, last)
    result = advantages("mt_grpo", batch)
    row = np.arange(len(rewards))
    np.testing.assert_allclose(result[row, num_turns - 1], of_outcome[row, num_turns - 1], rtol=1e-12)
    np.testing.assert_allclose(advantages("mt_grpo", batch, turn_weight=0.0), of_outcome, rtol=1e-12)
    doubled = advantages("mt_grpo", batch, turn_weight=2.0)
    np.testing.assert_allclose(doubled - of_outcome, 2 * (result - of_outcome), rtol=1e-9, atol=1e-9)


def test_mt_grpo_by_hand():
    # Two turns each, the paper's case: R^O = 1, 0, 0; R^T = 0, 1, 0. Means 1/3; deviations 2/3, -1/3, -1/3.
    rewards, turns, group = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), np.full(3, 2), np.zeros(3, int)
    result = advantages("mt_grpo", (rewards, turns, group), scale="none")
    np.testing.assert_allclose(result, np.array([[1, 2], [1, -1], [-2, -1]]) / 3, atol=1e-15)


def test_mt_grpo_where_some_do_not_search():
    # The first answers at once; the others search once. R^O = 1, 0, 1; R^T = 0 (none), 1, 0.
    rewards, turns, group = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 2, 2]), np.zeros(3, int)
    batch = rewards, turns, group
    result = advantages("mt_grpo", batch, scale="none")
    np.testing.assert_allclose(result, [[1 / 3, 0], [0, -2 / 3], [0, 1 / 3]], atol=1e-15)
    # compared only with those that have the turn: R^T = 1, 0
    result = advantages("mt_grpo", batch, scale="none", baseline="reached")
    np.testing.assert_allclose(result, [[1 / 3, 0], [-1 / 6, -2 / 3], [-1 / 6, 1 / 3]], atol=1e-15)
    # all totals are 1
    assert advantages("mt_grpo", batch, scale="none", unsearched="combined")[0].tolist() == [0.0, 0.0]


@given(batch=batches(), weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]), scale=st.sampled_from(["std", "none"]))
def test_gigpo_where_no_state_comes_twice_is_grpo(batch, weight, scale):
    rewards, num_turns, group = batch
    anchors = np.arange(rewards.size).reshape(rewards.shape)
    result = advantages("gigpo", batch, anchors=anchors, turn_weight=weight, scale=scale)
    expected = ADVANTAGES["grpo"].advantages(rewards, num_turns, group, rewards.sum(1), scale=scale)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_gigpo_by_hand():
    # Both begin in one state; then the first turn of the second leads to where the first's second turn began.
    rewards, turns, group = np.array([[0.0, 1.0], [0.0, 0.0]]), np.full(2, 2), np.zeros(2, int)
    anchors = np.array([[7, 8], [7, 8]])
    result = advantages("gigpo", (rewards, turns, group), anchors=anchors, scale="none", gamma=0.5, turn_weight=2.0)
    # A^E = 1/2, -1/2; returns 1/2, 1 and 0, 0; A^S = 1/4, 1/2 and -1/4, -1/2
    assert result.tolist() == [[1.0, 1.5], [-1.0, -1.5]]


def test_gigpo_compares_states_within_one_trajectory_too():
    rewards, turns, group = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([2, 1]), np.zeros(2, int)
    anchors = np.array([[7, 7], [5, 0]])
    result = advantages("gigpo", (rewards, turns, group), anchors=anchors, scale="none", gamma=0.0)
    assert result.tolist() == [[0.0, 1.0], [-0.5, 0.0]]  # A^E = 1/2, -1/2; A^S of 0, 1 in one state: -1/2, 1/2


@given(batch=batches())
def test_igpo_without_discount_starts_with_the_sum_of_all_normalised_rewards(batch):
    rewards, num_turns, group = batch
    result = advantages("igpo", batch)
    own = reached(num_turns, rewards.shape[1])
    for label in np.unique(group):
        members = group == label
        together = rewards[members][own[members]]
        sums = result[members, 0].sum()
        assert sums == pytest.approx(0.0, abs=1e-6)  # normalised rewards sum to 0 over the group
        if np.ptp(together) == 0:
            assert not result[members].any()


@given(batch=batches(), gamma=st.sampled_from([0.0, 0.5, 1.0]))
def test_igpo_by_its_definition(batch, gamma):
    rewards, num_turns, group = batch
    result = advantages("igpo", batch, gamma=gamma)
    own = reached(num_turns, rewards.shape[1])
    for i, turns in enumerate(num_turns):
        together = rewards[group == group[i]][own[group == group[i]]]
        if np.ptp(together) == 0:
            continue
        normal = (rewards[i, :turns] - together.mean()) / (together.std(ddof=1) + 1e-6)
        for k in range(turns):
            expected = sum(gamma ** (j - k) * normal[j] for j in range(k, turns))
            assert result[i, k] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(batch=batches())
def test_igpo_the_other_way_round_is_the_return_less_the_mean_return_at_that_turn(batch):
    rewards, num_turns, group = batch
    result = advantages("igpo", batch, order="accumulate_first", scale="none")
    returns = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    for i, turns in enumerate(num_turns):
        expected = returns[i] - returns[group == group[i]].mean(0)
        np.testing.assert_allclose(result[i, :turns], expected[:turns], atol=1e-12)


@given(batch=batches(), gamma=st.floats(0.0, 1.0))
def test_returns_obey_the_bellman_equation(batch, gamma):
    rewards = batch[0]
    returns = returns_to_go(rewards, gamma)
    later = np.pad(returns, ((0, 0), (0, 1)))[:, 1:]
    np.testing.assert_allclose(returns, rewards + gamma * later, rtol=1e-12)


steps = st.floats(0, 1)


@given(batch=batches(), gamma=steps, gae_lambda=steps)
def test_gae_is_the_mean_of_all_looks_ahead(batch, gamma, gae_lambda):
    """By its definition: n-step returns less the value, weighed (1 - lambda) lambda^(n - 1), the last with the rest."""
    rewards, num_turns, _ = batch
    values = np.cos(np.arange(rewards.size)).reshape(rewards.shape)
    result = gae(rewards, num_turns, values, gamma, gae_lambda)
    for i, length in enumerate(num_turns):
        for k in range(length):
            expected, left = 0.0, 1.0
            for n in range(1, length - k + 1):
                last = n == length - k
                weight = left if last else left * (1 - gae_lambda)
                ahead = sum(gamma**j * rewards[i, k + j] for j in range(n))
                bootstrap = 0.0 if last else gamma**n * values[i, k + n]
                expected += weight * (ahead + bootstrap - values[i, k])
                left -= weight
            assert result[i, k] == pytest.approx(expected, abs=1e-9)


@given(batch=batches(), gamma=steps)
def test_with_lambda_1_the_critic_learns_the_return(batch, gamma):
    rewards, num_turns, _ = batch
    values = np.where(reached(num_turns, rewards.shape[1]), np.sin(np.arange(rewards.size)).reshape(rewards.shape), 0)
    learnt = gae(rewards, num_turns, values, gamma, 1.0) + values
    np.testing.assert_allclose(learnt, returns_to_go(rewards, gamma), atol=1e-12)


def test_ppo_without_a_critics_opinion_is_reinforce_plus_plus():
    rewards, turns, group = np.array([[0.0, 1.0], [0.5, 0.0]]), np.array([2, 1]), np.zeros(2, int)
    result = advantages("ppo", (rewards, turns, group), values=np.zeros(rewards.shape))
    np.testing.assert_allclose(result, advantages("reinforce_plus_plus", (rewards, turns, group)))
