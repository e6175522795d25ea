"""Information Gain-based Policy Optimization (Wang et al. 2025, arXiv 2510.14967): all rewards of a group normalised
together, then summed from each turn on.

The authors' code does it the other way round (`order="accumulate_first"`): returns first, then each is compared with
the group's at the same token, an ended trajectory counting as 0, without the division by the spread (`scale="none"`).
Here "at the same token" is "at the same turn".
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import Scale, group_relative, reached_turns
from tspo.advantages.returns import returns_to_go

Order = Literal["normalize_first", "accumulate_first"]


def igpo(
    turn_rewards: NDArray[np.float64],
    num_turns: NDArray[np.int64],
    group_index: NDArray[np.int64],
    outcome: NDArray[np.float64],
    *,
    scale: Scale = "std",
    gamma: float = 1.0,
    order: Order = "normalize_first",
) -> NDArray[np.float64]:
    """A[i, k] = sum over j >= k of gamma^(j - k) (r[i, j] - mean r) / (std r + eps).

    Mean and std are over all turns of all members of i's group together. `turn_rewards` r is (N, K), `num_turns`
    (N,) at least 1. Returns (N, K), zeros past the end.
    """
    reached = reached_turns(num_turns, turn_rewards.shape[1])
    if order == "accumulate_first":
        returns = returns_to_go(turn_rewards, gamma)
        return np.where(reached, group_relative(returns, np.ones_like(reached), group_index, scale), 0.0)
    rows, _ = np.nonzero(reached)
    together = turn_rewards[reached][:, None]
    normalized = np.zeros(turn_rewards.shape)
    everyone = np.ones_like(together, dtype=np.bool_)
    normalized[reached] = group_relative(together, everyone, group_index[rows], scale)[:, 0]
    return np.where(reached, returns_to_go(normalized, gamma), 0.0)
