"""The discounted return from each turn on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def returns_to_go(turn_rewards: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """G[i, k] = sum over j >= k of gamma^(j - k) r[i, j]; (N, K) like `turn_rewards`, which is 0 past the end."""
    returns = np.zeros(turn_rewards.shape)
    later = np.zeros(len(turn_rewards))
    for k in reversed(range(turn_rewards.shape[1])):
        later = turn_rewards[:, k] + gamma * later
        returns[:, k] = later
    return returns
