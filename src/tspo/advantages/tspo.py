"""Turn-level Search Policy Optimization: advantages turn by turn, relative to the group.

After arXiv 2601.22776; the formula and its options are this project's reconstruction from the abstract.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import Scale, group_relative, reached_turns
from tspo.advantages.grpo import grpo

Baseline = Literal["absorbing", "reached"]
Level = Literal["turn", "turn_if_all_wrong"]


def tspo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    scale: Scale = "std",
    baseline: Baseline = "absorbing",
    level: Level = "turn",
) -> NDArray[np.float64]:
    """A[i, k] = (r[i, k] - mean S_k) / (std S_k + eps), with S_k over the members j of i's group.

        absorbing: S_k = { r[j, min(k, K_j)] : all j }   an ended trajectory keeps its last turn's reward
        reached:   S_k = { r[j, k] : K_j >= k }

    `turn_if_all_wrong` does so in groups where every outcome is 0 and gives the others GRPO's advantages.
    `turn_rewards` r is (N, K), `num_turns` (N,) at least 1. Returns (N, K), zeros past the end.
    """
    compared, member = compared_rewards(turn_rewards, num_turns, baseline)
    reached = reached_turns(num_turns, turn_rewards.shape[1])
    advantages = np.where(reached, group_relative(compared, member, group_index, scale), 0.0)

    if level == "turn_if_all_wrong":
        any_correct = np.isin(group_index, group_index[outcome == 1.0])
        trajectory_level = grpo(turn_rewards, num_turns, group_index, outcome, scale=scale)
        advantages = np.where(any_correct[:, None], trajectory_level, advantages)
    return advantages


def compared_rewards(
    turn_rewards: NDArray[np.float64], num_turns: NDArray[np.int64], baseline: Baseline
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The sets S_k as columns: each trajectory's reward at turn k, and whether it is in S_k; both (N, K)."""
    max_turns = turn_rewards.shape[1]
    reached = reached_turns(num_turns, max_turns)
    if baseline == "reached":
        return turn_rewards, reached
    turn = np.minimum(np.arange(max_turns), num_turns[:, None] - 1)
    return np.take_along_axis(turn_rewards, turn, axis=1), np.ones_like(reached)
