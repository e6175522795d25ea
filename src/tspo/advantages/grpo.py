"""Group Relative Policy Optimization (Shao et al. 2024, arXiv 2402.03300): one advantage a trajectory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import Scale, group_relative, on_every_turn


def grpo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    scale: Scale = "std",
) -> NDArray[np.float64]:
    """A[i, k] = (R_i - mean R) / (std R + eps) on every turn k of trajectory i, over its group.

    `outcome` R is (N,); of `turn_rewards` (N, K) only the shape is read. Returns (N, K), zeros past the end.
    """
    everyone = np.ones((len(outcome), 1), dtype=np.bool_)
    advantage = group_relative(outcome[:, None], everyone, group_index, scale)[:, 0]
    return on_every_turn(advantage, num_turns, turn_rewards.shape[1])
