"""What a step's rollouts say about learning: numbers that go to the metrics file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tspo.credit import Credit, CreditConfig, assign_credit
from tspo.trajectory import StopReason, Trajectory

PREFIX = "tspo/"
"""Before the names of these metrics where they stand among TRL's."""


def rollout_metrics(
    trajectories: Sequence[Trajectory], credits: Sequence[Credit], config: CreditConfig, seconds: float
) -> dict[str, float]:
    """Means over the trajectories of one step.

    A near miss is a wrong answer although the feedback held the right one. A group has no variance under a
    method when that method gives every one of its turns an advantage of 0.
    """
    turns = np.array([len(trajectory.turns) for trajectory in trajectories])
    searches = np.array([sum(turn.query is not None for turn in t.turns) for t in trajectories])
    outcome = np.array([credit.outcome for credit in credits])
    found = np.array([credit.first_occurrence is not None for credit in credits])
    tokens = sum(len(turn.token_ids or ()) for t in trajectories for turn in t.turns)
    metrics = {
        "exact_match": outcome.mean(),
        "turn_reward": np.concatenate([credit.turn_rewards for credit in credits]).mean(),
        "answer_in_feedback": found.mean(),
        "near_miss_share": (found & (outcome == 0)).mean(),
        "turns": turns.mean(),
        "searches": searches.mean(),
        "search_turn_share": searches.sum() / turns.sum(),
        "sampled_tokens": tokens / len(trajectories),
        "trained_tokens": sum(_length(trajectory) for trajectory in trajectories),
        "rollout_seconds": seconds,
        "rollout_tokens_per_second": tokens / seconds,
    }
    for algorithm in ("grpo", "tspo"):
        same = config.algorithm == algorithm
        assigned = credits if same else assign_credit(trajectories, replace(config, algorithm=algorithm))
        metrics[f"no_variance_share_{algorithm}"] = _share_without_variance(trajectories, assigned)
    for reason in StopReason:
        metrics[f"stop/{reason}"] = np.mean([t.stop_reason is reason for t in trajectories])
    return {name: float(value) for name, value in metrics.items()}


def _length(trajectory: Trajectory) -> int:
    """Tokens of the prompt, the policy and the feedback together."""
    completion = sum(len(turn.token_ids or ()) + len(turn.feedback_token_ids or ()) for turn in trajectory.turns)
    return len(trajectory.prompt_token_ids or ()) + completion


def _share_without_variance(trajectories: Sequence[Trajectory], credits: Sequence[Credit]) -> float:
    varies: dict[str, bool] = {}
    for trajectory, credit in zip(trajectories, credits, strict=True):
        any_advantage = any(advantage != 0.0 for advantage in credit.turn_advantages)
        varies[trajectory.group_id] = varies.get(trajectory.group_id, False) or any_advantage
    return sum(not varied for varied in varies.values()) / len(varies)
