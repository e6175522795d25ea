"""REINFORCE Leave-One-Out (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740): the others are the baseline.

Same numbers as verl's `rloo_vectorized`; verl's `rloo` differs in a group of one, whose advantage it makes the reward.
The paper's loss is plain REINFORCE over whole completions, without ratio or clipping, and its KL is part of the reward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import group_relative, on_every_turn


def rloo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A[i, k] = R_i - mean of R_j over the others j of i's group = G / (G - 1) (R_i - mean R), on every turn k.

    `outcome` R is (N,); of `turn_rewards` (N, K) only the shape is read. A group of one gets 0. Returns (N, K),
    zeros past the end.
    """
    everyone = np.ones((len(outcome), 1), dtype=np.bool_)
    deviation = group_relative(outcome[:, None], everyone, group_index, "none")[:, 0]
    _, group, size = np.unique(group_index, return_inverse=True, return_counts=True)
    members = size[group]
    return on_every_turn(deviation * members / np.maximum(members - 1, 1), num_turns, turn_rewards.shape[1])
