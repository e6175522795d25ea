"""The outcome alone: every turn earns what the answer earned."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def outcome_rewards(outcome: ArrayLike, num_turns: ArrayLike, first_occurrence: ArrayLike) -> NDArray[np.float64]:
    """r[i, k] = outcome[i] on every turn k of trajectory i: (N, K) float64, zeros past the end."""
    num_turns = np.asarray(num_turns, dtype=np.int64)[:, None]
    reached = np.arange(num_turns.max(initial=0)) < num_turns
    return np.where(reached, np.asarray(outcome, dtype=np.float64)[:, None], 0.0)
