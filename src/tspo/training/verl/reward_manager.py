"""verl's reward path: exact match as the score of a trajectory, and its first occurrence for the advantages."""

from __future__ import annotations

from typing import Any

from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from tspo.credit import score
from tspo.training.verl.advantage import credit_of
from tspo.training.verl.carried import FIRST_OCCURRENCE, OUTCOME, carried_trajectory
from tspo.training.verl.names import REWARD_MANAGER


@register(REWARD_MANAGER)
class TSPORewardManager(RewardManagerBase):
    """Scores what the search agent loop carries. The score that verl logs and validates is exact match.

    Turn rewards are given where a whole group is known: the estimator asks `tspo.credit.assign_credit` for all of a
    batch at once.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **_: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.credit = credit_of(config.algorithm)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """See `RewardManagerBase`: the score of one trajectory."""
        trajectory = carried_trajectory(data[-1].non_tensor_batch["tool_extra_fields"])
        outcome, first = score(trajectory, self.credit)
        return {
            "reward_score": outcome,
            "reward_extra_info": {
                OUTCOME: outcome,
                "answer_found": float(first is not None),
                "searches": float(sum(turn.feedback is not None for turn in trajectory.turns)),
                FIRST_OCCURRENCE: first,
            },
        }
