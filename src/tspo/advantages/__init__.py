"""Advantage estimators: pure functions from rewards to advantages, by name.

A new one is a short file and one line in `ADVANTAGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tspo.advantages.dr_grpo import dr_grpo
from tspo.advantages.gigpo import gigpo
from tspo.advantages.grpo import grpo
from tspo.advantages.igpo import igpo
from tspo.advantages.mt_grpo import mt_grpo
from tspo.advantages.ppo import ppo
from tspo.advantages.reinforce_plus_plus import reinforce_plus_plus, reinforce_plus_plus_baseline
from tspo.advantages.rloo import rloo
from tspo.advantages.tspo import tspo


@dataclass(frozen=True, slots=True)
class Estimator:
    """An estimator, and what it wants to be given."""

    advantages: Callable[..., NDArray[np.float64]]
    """(turn_rewards (N, K), num_turns (N,), group_index (N,), outcome (N,), **inputs, **options) -> (N, K)."""
    reward: str
    """The reward it was published with, a name in `REWARDS`; others may be named in its place."""
    takes: Literal["trajectory", "turns", "steps"]
    """`trajectory`: the trajectory's one reward, given as `outcome`. `turns`: turn rewards as they are. `steps`:
    turn rewards that add up; a trajectory's one reward is then in its last turn."""
    options: tuple[str, ...] = ()
    """The keyword options it has, which are also fields of `CreditConfig`."""
    inputs: tuple[Literal["anchors", "turn_tokens", "values"], ...] = ()
    """What else it is given, each (N, K): labels of the states that turns began in, tokens of each turn, a critic's
    values. One that takes values has tokens for its turns."""
    over: Literal["group", "batch"] = "group"
    """What advantages are relative to: a group, or all trajectories that are given together."""
    per_turn: bool = False
    """Whether it is nothing but GRPO where only the last turn earns."""


ADVANTAGES: dict[str, Estimator] = {
    "tspo": Estimator(tspo, "folr", "turns", ("scale", "baseline", "level")),
    "grpo": Estimator(grpo, "outcome", "trajectory", ("scale",)),
    "dr_grpo": Estimator(dr_grpo, "outcome", "trajectory"),
    "rloo": Estimator(rloo, "outcome", "trajectory"),
    "reinforce_plus_plus": Estimator(
        reinforce_plus_plus, "outcome", "steps", ("gamma",), ("turn_tokens",), over="batch"
    ),
    "reinforce_plus_plus_baseline": Estimator(
        reinforce_plus_plus_baseline, "outcome", "trajectory", inputs=("turn_tokens",), over="batch"
    ),
    "mt_grpo": Estimator(
        mt_grpo, "evidence", "steps", ("scale", "baseline", "turn_weight", "unsearched"), per_turn=True
    ),
    "gigpo": Estimator(gigpo, "outcome", "steps", ("scale", "gamma", "turn_weight"), ("anchors",)),
    "igpo": Estimator(igpo, "information_gain", "steps", ("scale", "gamma", "order"), per_turn=True),
    "ppo": Estimator(ppo, "outcome", "steps", ("gamma", "gae_lambda"), ("values",), over="batch"),
}
