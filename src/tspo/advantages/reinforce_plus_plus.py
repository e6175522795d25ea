"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): advantages normalised over the whole batch, not within groups.

Same numbers as verl's `reinforce_plus_plus` and `reinforce_plus_plus_baseline` where gamma is 1; verl discounts token
by token, this turn by turn. The paper takes a KL term (k1) off each token's reward; here the KL is the loss's
(`training.beta`). The batch is all trajectories of one step, of all processes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import group_relative, on_every_turn
from tspo.advantages.returns import returns_to_go
from tspo.advantages.whiten import whitened


def reinforce_plus_plus(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    turn_tokens: NDArray[np.float64],
    gamma: float = 1.0,
) -> NDArray[np.float64]:
    """A[i, k] = (G[i, k] - mean G) / sqrt(var G + eps), over all turns of the batch; groups play no part.

    G is the return from turn k on: `turn_rewards` (N, K), discounted by `gamma` a turn. `turn_tokens` (N, K) are the
    weights of `whitened`. Returns (N, K), zeros past the end, and all zeros where all G are equal.
    """
    return whitened(returns_to_go(turn_rewards, gamma), num_turns, turn_tokens)


def reinforce_plus_plus_baseline(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    turn_tokens: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A[i, k] = (D_i - mean D) / sqrt(var D + eps), with D_i = R_i - mean R over i's group.

    `outcome` R is (N,); of `turn_rewards` (N, K) only the shape is read. Mean and variance of D are over the batch,
    weighed as in `reinforce_plus_plus`. Returns (N, K), zeros past the end.
    """
    everyone = np.ones((len(outcome), 1), dtype=np.bool_)
    deviation = group_relative(outcome[:, None], everyone, group_index, "none")[:, 0]
    return whitened(on_every_turn(deviation, num_turns, turn_rewards.shape[1]), num_turns, turn_tokens)
