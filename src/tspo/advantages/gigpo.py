"""Group-in-Group Policy Optimization (Feng et al. 2025, arXiv 2505.10978): turns from one state are compared as well.

Same numbers as verl-agent's `compute_gigpo_outcome_advantage` (its `mean_norm` is `scale="none"`, its `mean_std_norm`
`scale="std"`), but for a group of one trajectory: 0 here, its reward there. The paper's settings: gamma 0.95,
turn_weight (its omega) 1, and for search states that are 90 % alike count as one (`anchor_similarity`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import Scale, group_relative, reached_turns
from tspo.advantages.returns import returns_to_go


def gigpo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    anchors: NDArray[np.int64],
    scale: Scale = "std",
    gamma: float = 1.0,
    turn_weight: float = 1.0,
) -> NDArray[np.float64]:
    """A[i, k] = A^E_i + turn_weight A^S[i, k].

    A^E is group-relative in the trajectories' total rewards. A^S is relative, in the return from turn k on, to all
    turns of the group that began in the same state: those with the same `anchors` (N, K), labels that no two
    groups share. `turn_rewards` is (N, K), zeros past the end, as is the result.
    """
    reached = reached_turns(num_turns, turn_rewards.shape[1])
    totals = turn_rewards.sum(1, keepdims=True)
    of_episode = group_relative(totals, np.ones_like(totals, dtype=np.bool_), group_index, scale)
    returns = returns_to_go(turn_rewards, gamma)[reached][:, None]
    of_step = np.zeros(turn_rewards.shape)
    of_step[reached] = group_relative(returns, np.ones_like(returns, dtype=np.bool_), anchors[reached], scale)[:, 0]
    return np.where(reached, of_episode + turn_weight * of_step, 0.0)
