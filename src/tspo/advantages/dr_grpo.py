"""GRPO Done Right (Liu et al. 2025, arXiv 2503.20783): GRPO without the division by the group's spread.

Half of the method is its loss, which sums over tokens and divides by a constant: `training.average=constant`.
Same numbers as verl's `grpo` with `norm_adv_by_std_in_grpo=False`, but for a group of one: 0 here, its reward there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.grpo import grpo


def dr_grpo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A[i, k] = R_i - mean R on every turn k of trajectory i, over its group.

    `outcome` R is (N,); of `turn_rewards` (N, K) only the shape is read. Returns (N, K), zeros past the end.
    """
    return grpo(turn_rewards, num_turns, group_index, outcome, scale="none")
