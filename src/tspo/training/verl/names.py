"""The names under which verl's registries and configuration know what is ours; imports nothing heavy."""

from __future__ import annotations

PLUGIN = "tspo.training.verl.plugin"
"""The module that verl imports in each of its processes."""
AGENT = "tspo_search"
REWARD_MANAGER = "tspo"
SETTINGS = "tspo"
"""The key of our settings under verl's `algorithm` (credit) and `actor_rollout_ref.rollout.custom` (rollout)."""
MODE_PREFIX = "tspo_"
"""What our trainer modes put before the names of verl's."""
METRIC_PREFIX = "tspo/"
"""Before the names of our metrics where they stand among verl's."""
CPU = "tspo_cpu"
"""The trainer mode and the rollout engine without a GPU."""


def estimator_name(algorithm: str) -> str:
    """verl's name of an estimator in `ADVANTAGES`; verl has a grpo of its own, so ours is tspo_grpo."""
    return algorithm if algorithm == "tspo" else f"tspo_{algorithm}"
