"""Advantage estimators: pure functions from rewards to advantages, by name.

A new one is a short file and one line in `ADVANTAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.grpo import grpo
from tspo.advantages.tspo import tspo


@dataclass(frozen=True, slots=True)
class Estimator:
    """An estimator, and what it wants to be given."""

    advantages: Callable[..., NDArray[np.float64]]
    """(turn_rewards (N, K), num_turns (N,), group_index (N,), outcome (N,), **options) -> (N, K)."""
    rewards: Literal["outcome", "folr"]
    """What one turn earns: its trajectory's outcome, or FOLR."""
    options: tuple[str, ...]
    """The keyword options it has, which are also fields of `CreditConfig`."""


ADVANTAGES: dict[str, Estimator] = {
    "tspo": Estimator(tspo, rewards="folr", options=("scale", "baseline", "level")),
    "grpo": Estimator(grpo, rewards="outcome", options=("scale",)),
}
