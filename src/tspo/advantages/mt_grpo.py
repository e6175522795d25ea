"""Multi-Turn GRPO (Zeng et al. 2025, arXiv 2505.11821): a turn's own advantage on top of the outcome's.

The paper's trajectories have two turns, a search and an answer: A_1 = A^O + A^T and A_2 = A^O, each normalised in the
group. Ours is the same rule for any number of searches, each compared with the others' search of the same number.
The authors' code adds 1e-4 to the standard deviation (here 1e-6), and gives a trajectory that did not search the
advantage of the sum of all rewards: `unsearched="combined"`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import Scale, group_relative, reached_turns
from tspo.advantages.tspo import Baseline

Unsearched = Literal["outcome", "combined"]


def mt_grpo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    turn_weight: float = 1.0,
    scale: Scale = "std",
    baseline: Baseline = "absorbing",
    unsearched: Unsearched = "outcome",
) -> NDArray[np.float64]:
    """A[i, k] = A^O_i + turn_weight A^T[i, k] before the last turn, and A^O_i in it.

    A^O is group-relative in the last turns' rewards, A^T[., k] in the rewards of the k-th turns before the last.
    A trajectory without such a turn counts as 0 under `absorbing` and not at all under `reached`. One that has only
    one turn has A^O, or under `combined` the group-relative sum of all its rewards. `turn_rewards` is (N, K),
    `num_turns` (N,) at least 1. Returns (N, K), zeros past the end.
    """
    max_turns = turn_rewards.shape[1]
    before_last = reached_turns(num_turns - 1, max_turns)
    last = np.take_along_axis(turn_rewards, num_turns[:, None] - 1, axis=1)
    everyone = np.ones_like(last, dtype=np.bool_)
    of_outcome = group_relative(last, everyone, group_index, scale)

    compared = before_last if baseline == "reached" else np.ones_like(before_last)
    of_turn = group_relative(np.where(before_last, turn_rewards, 0.0), compared, group_index, scale)
    advantages = of_outcome + np.where(before_last, turn_weight * of_turn, 0.0)
    if unsearched == "combined":
        combined = group_relative(turn_rewards.sum(1, keepdims=True), everyone, group_index, scale)
        advantages = np.where(num_turns[:, None] == 1, combined, advantages)
    return np.where(reached_turns(num_turns, max_turns), advantages, 0.0)
