import numpy as np
import pytest

from tspo.advantages.grpo import grpo

pytestmark = pytest.mark.verl


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("scale", ["std", "none"])
@pytest.mark.parametrize("rewards", ["binary", "continuous"])
def test_equals_verl(seed, scale, rewards):
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 9, size=12)  # verl gives a group of one its reward, not 0
    group = random.permutation(np.repeat(np.arange(12), sizes))
    outcome = random.integers(0, 2, group.size) if rewards == "binary" else random.random(group.size)
    outcome = outcome.astype(np.float32).astype(np.float64)
    num_turns = random.integers(1, 5, group.size)

    mask = np.arange(4) < num_turns[:, None]  # one token a turn
    token_level_rewards = np.zeros(mask.shape, dtype=np.float32)
    token_level_rewards[np.arange(group.size), num_turns - 1] = outcome
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        torch.from_numpy(token_level_rewards),
        torch.from_numpy(mask.astype(np.float32)),
        np.array([f"question {g}" for g in group], dtype=object),
        norm_adv_by_std_in_grpo=scale == "std",
    )
    result = grpo(np.zeros(mask.shape), num_turns, group, outcome, scale=scale)
    # verl computes in float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-6)
