from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tspo.advantages import ADVANTAGES
from tspo.advantages.grpo import grpo
from tspo.advantages.ppo import gae

pytestmark = pytest.mark.verl

TURNS = 4


@dataclass
class Batch:
    """Groups of two to eight trajectories with one token a turn, as this project and as verl have them."""

    outcome: Any
    num_turns: Any
    group: Any
    turn_rewards: Any
    token_level_rewards: Any
    response_mask: Any
    index: Any


@pytest.fixture(scope="module")
def core_algos():
    return pytest.importorskip("verl.trainer.ppo.core_algos")


def batch_of(seed, rewards, of_turns=False):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 9, size=12)  # verl gives a group of one its reward, not 0
    group = random.permutation(np.repeat(np.arange(12), sizes))
    outcome = random.integers(0, 2, group.size) if rewards == "binary" else random.random(group.size)
    outcome = outcome.astype(np.float32).astype(np.float64)
    num_turns = random.integers(1, TURNS + 1, group.size)
    mask = np.arange(TURNS) < num_turns[:, None]
    turn_rewards = (
        np.where(mask, random.random(mask.shape), 0.0).astype(np.float32) if of_turns else np.zeros(mask.shape)
    )
    turn_rewards[np.arange(group.size), num_turns - 1] = outcome
    return Batch(
        outcome=turn_rewards.sum(1, dtype=np.float64),
        num_turns=num_turns,
        group=group,
        turn_rewards=turn_rewards.astype(np.float64),
        token_level_rewards=torch.from_numpy(turn_rewards.astype(np.float32)),
        response_mask=torch.from_numpy(mask.astype(np.float32)),
        index=np.array([f"question {g}" for g in group], dtype=object),
    )


def assert_same(ours, theirs):
    # verl computes in float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("rewards", ["binary", "continuous"])
def test_grpo(core_algos, seed, scale, rewards):
    batch = batch_of(seed, rewards)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        batch.token_level_rewards, batch.response_mask, batch.index, norm_adv_by_std_in_grpo=scale == "std"
    )
    result = grpo(np.zeros(batch.turn_rewards.shape), batch.num_turns, batch.group, batch.outcome, scale=scale)
    assert_same(result, expected)


THEIRS = {
    "dr_grpo": ("compute_grpo_outcome_advantage", {"norm_adv_by_std_in_grpo": False}),
    "rloo": ("compute_rloo_outcome_advantage", {}),
    "reinforce_plus_plus_baseline": ("compute_reinforce_plus_plus_baseline_outcome_advantage", {}),
}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("rewards", ["binary", "continuous"])
@pytest.mark.parametrize("of_turns", [False, True], ids=["outcome", "turn rewards"])
def test_estimators_of_one_reward_a_trajectory(core_algos, seed, name, rewards, of_turns):
    batch = batch_of(seed, rewards, of_turns)
    function, options = THEIRS[name]
    expected, _ = getattr(core_algos, function)(
        batch.token_level_rewards, batch.response_mask, index=batch.index, **options
    )
    inputs = {input_: np.ones(batch.turn_rewards.shape) for input_ in ADVANTAGES[name].inputs}
    result = ADVANTAGES[name].advantages(
        np.zeros(batch.turn_rewards.shape), batch.num_turns, batch.group, batch.outcome, **inputs
    )
    assert_same(result, expected)


@pytest.mark.parametrize("seed", range(10))
def test_vectorised_rloo_gives_a_group_of_one_nothing_either(core_algos, seed):
    batch = batch_of(seed, "continuous")
    batch.index[0], batch.group[0] = "alone", 99
    expected, _ = core_algos.compute_rloo_vectorized_outcome_advantage(
        batch.token_level_rewards, batch.response_mask, batch.index
    )
    result = ADVANTAGES["rloo"].advantages(batch.turn_rewards, batch.num_turns, batch.group, batch.outcome)
    assert_same(result, expected)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("of_turns", [False, True], ids=["outcome", "turn rewards"])
def test_reinforce_plus_plus(core_algos, seed, gamma, of_turns):
    """One token a turn: verl's discount of a token is then that of a turn."""
    batch = batch_of(seed, "continuous", of_turns)
    expected, _ = core_algos.compute_reinforce_plus_plus_outcome_advantage(
        batch.token_level_rewards, batch.response_mask, config=SimpleNamespace(gamma=gamma)
    )
    tokens = np.ones(batch.turn_rewards.shape)
    result = ADVANTAGES["reinforce_plus_plus"].advantages(
        batch.turn_rewards, batch.num_turns, batch.group, batch.outcome, turn_tokens=tokens, gamma=gamma
    )
    assert_same(result, expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_turns_of_several_tokens_weigh_as_many(core_algos, seed, name):
    torch = pytest.importorskip("torch")
    batch = batch_of(seed, "continuous")
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, batch.turn_rewards.shape)
    turn = np.repeat(np.arange(TURNS), 8)
    mask = (np.tile(np.arange(8), TURNS) < lengths[:, turn]) & (turn < batch.num_turns[:, None])
    token_rewards = np.zeros(mask.shape, dtype=np.float32)
    token_rewards[np.arange(len(mask)), mask.shape[1] - 1 - mask[:, ::-1].argmax(1)] = batch.outcome
    expected, _ = getattr(core_algos, f"compute_{name}_outcome_advantage")(
        torch.from_numpy(token_rewards),
        torch.from_numpy(mask.astype(np.float32)),
        index=batch.index,
        config=SimpleNamespace(gamma=1.0),
    )
    result = ADVANTAGES[name].advantages(
        batch.turn_rewards, batch.num_turns, batch.group, batch.outcome, turn_tokens=lengths.astype(float)
    )
    np.testing.assert_allclose(np.where(mask, result[:, turn], 0.0), expected.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0)])
def test_ppo(core_algos, seed, gamma, gae_lambda):
    torch = pytest.importorskip("torch")
    batch = batch_of(seed, "continuous", of_turns=True)
    values = np.random.default_rng(seed).normal(size=batch.turn_rewards.shape).astype(np.float32)
    expected, returns = core_algos.compute_gae_advantage_return(
        batch.token_level_rewards, torch.from_numpy(values), batch.response_mask, gamma, gae_lambda
    )
    result = ADVANTAGES["ppo"].advantages(
        batch.turn_rewards,
        batch.num_turns,
        batch.group,
        batch.outcome,
        values=values.astype(float),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    mask = batch.response_mask.numpy() > 0
    np.testing.assert_allclose(result[mask], expected.numpy()[mask], rtol=1e-4, atol=1e-5)
    learnt = gae(batch.turn_rewards, batch.num_turns, values.astype(float), gamma, gae_lambda) + values
    np.testing.assert_allclose(learnt[mask], returns.numpy()[mask], rtol=1e-4, atol=1e-5)
