"""PPO with GAE (Schulman et al., arXiv 1506.02438 and 1707.06347): what came, less what a critic expected.

    delta[k] = r[k] + gamma V[k + 1] - V[k]
    A[k]     = sum over j >= k of (gamma gae_lambda)^(j - k) delta[j], whitened over the batch

Same numbers as verl's `compute_gae_advantage_return`. A step k is a sampled token; feedback is no step. So it needs a
critic's value before every token, which verl's trainer has and ours has not. Search-R1 and StepSearch train so, with
gamma and lambda 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import reached_turns
from tspo.advantages.returns import returns_to_go
from tspo.advantages.whiten import whitened


def ppo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    values: NDArray[np.float64],
    gamma: float = 1.0,
    gae_lambda: float = 1.0,
) -> NDArray[np.float64]:
    """`gae` whitened over all steps of the batch; groups play no part. (N, K), zeros past the end."""
    return whitened(gae(turn_rewards, num_turns, values, gamma, gae_lambda), num_turns)


def gae(
    rewards: NDArray[np.float64],
    lengths: NDArray[np.int64],
    values: NDArray[np.float64],
    gamma: float,
    gae_lambda: float,
) -> NDArray[np.float64]:
    """The A above before it is whitened: (N, K), zeros past the end; `gae + values` is what the critic learns.

    `rewards` and `values` are (N, K), a column a step, of which row i has `lengths` (N,); what is past the end does
    not matter. After the last step nothing is expected.
    """
    reached = reached_turns(lengths, rewards.shape[1])
    expected = np.where(reached, values, 0.0)
    after = np.pad(expected, ((0, 0), (0, 1)))[:, 1:]
    surprise = np.where(reached, rewards + gamma * after - expected, 0.0)
    return returns_to_go(surprise, gamma * gae_lambda)
