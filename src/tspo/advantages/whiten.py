"""A value against the mean and spread of the whole batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.group_relative import reached_turns

EPSILON = 1e-8
"""Added to the variance, as verl's whitening has it."""


def whitened(
    values: NDArray[np.float64], num_turns: NDArray[np.int64], turn_tokens: NDArray[np.float64] | float = 1.0
) -> NDArray[np.float64]:
    """(x - mean x) / sqrt(var x + eps) over all turns of all trajectories: (N, K), zeros past the end.

    Mean and variance weigh a turn by its `turn_tokens` (N, K), as a mean over tokens does, or all alike; the variance
    is the sample one. All zeros where all x (N, K) are equal.
    """
    reached = reached_turns(num_turns, values.shape[1])
    weight = np.where(reached, turn_tokens, 0.0)
    total = weight.sum()
    if total <= 1 or np.ptp(values[weight > 0]) == 0:
        return np.zeros(values.shape)
    centred = values - (values * weight).sum() / total
    variance = (centred**2 * weight).sum() / (total - 1)
    return np.where(reached, centred / np.sqrt(variance + EPSILON), 0.0)
