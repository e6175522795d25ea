"""What a step's rollouts say about learning: numbers that go to the metrics file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from tspo.advantages.group_relative import reached_turns
from tspo.advantages.tspo import compared_rewards
from tspo.credit import Credit, CreditConfig, assign_credit
from tspo.rollout.batched_search import SearchLog
from tspo.trajectory import StopReason, Trajectory


def rollout_metrics(
    trajectories: Sequence[Trajectory], credits: Sequence[Credit], config: CreditConfig, seconds: float
) -> dict[str, float]:
    """Means over the trajectories of one step, or over its groups.

    A near miss is a wrong answer although the feedback held the right one. A group has no variance under a
    method when that method gives every one of its turns an advantage of 0. `credit_entropy_METHOD` is left out
    where no trajectory of several turns has an advantage. `entropy` is the mean of -log p over the tokens that were
    sampled, whose expectation is the mean entropy of the distributions that they are from.
    """
    turns = np.array([len(trajectory.turns) for trajectory in trajectories])
    searches = np.array([sum(turn.query is not None for turn in t.turns) for t in trajectories])
    outcome = np.array([credit.outcome for credit in credits])
    found = np.array([credit.first_occurrence is not None for credit in credits])
    tokens = sum(len(turn.token_ids or ()) for t in trajectories for turn in t.turns)
    logprobs = np.concatenate([turn.logprobs or () for t in trajectories for turn in t.turns])
    metrics = {
        "exact_match": outcome.mean(),
        "turn_reward": np.concatenate([credit.turn_rewards for credit in credits]).mean(),
        "answer_in_feedback": found.mean(),
        "near_miss_share": (found & (outcome == 0)).mean(),
        "all_wrong_share": np.mean([not _any_correct(group) for group in _by_group(trajectories, credits)]),
        "turns": turns.mean(),
        "searches": searches.mean(),
        "search_turn_share": searches.sum() / turns.sum(),
        "sampled_tokens": tokens / len(trajectories),
        "trained_tokens": sum(trajectory.num_tokens for trajectory in trajectories),
        "rollout_seconds": seconds,
        "rollout_tokens_per_second": tokens / seconds,
    }
    if len(logprobs):
        metrics["entropy"] = -logprobs.mean()
    for algorithm in dict.fromkeys(("grpo", "tspo", config.algorithm)):
        method = config.with_algorithm(algorithm)
        assigned = credits if config == method else assign_credit(trajectories, method)
        groups = _by_group(trajectories, assigned)
        metrics[f"no_variance_share_{algorithm}"] = np.mean([not any(c.teaches for c in group) for group in groups])
        if algorithm in ("grpo", "tspo"):
            metrics[f"reward_variance_{algorithm}"] = np.mean([reward_variance(group, method) for group in groups])
        entropies = [credit_entropy(credit.turn_advantages) for credit in assigned]
        if defined := [entropy for entropy in entropies if entropy is not None]:
            metrics[f"credit_entropy_{algorithm}"] = np.mean(defined)
    for reason in StopReason:
        metrics[f"stop/{reason}"] = np.mean([t.stop_reason is reason for t in trajectories])
    return {name: float(value) for name, value in metrics.items()}


def search_metrics(logs: Sequence[SearchLog]) -> dict[str, float]:
    """How the searches of one step went, over all processes; nothing where nothing was searched.

    A search's seconds are those that its episode waited. `cache_hit_share` is there where there is a cache.
    """
    seconds = [second for log in logs for second in log.seconds]
    hits, misses = sum(log.cache_hits for log in logs), sum(log.cache_misses for log in logs)
    metrics = {}
    if seconds:
        metrics["search_seconds"] = float(np.mean(seconds))
        metrics["search_error_share"] = sum(log.failed for log in logs) / len(seconds)
    if hits + misses:
        metrics["cache_hit_share"] = hits / (hits + misses)
    return metrics


def reward_variance(group: Sequence[Credit], config: CreditConfig) -> float:
    """The sample variance (n - 1) of the rewards that the method compares in one group; of one or none it is 0.

    GRPO compares outcomes. TSPO compares the set S_k at each turn k that the group has: the mean over k. Where
    `level` gives the group GRPO's advantages, TSPO compares outcomes too.
    """
    trajectory_level = config.level == "turn_if_all_wrong" and _any_correct(group)
    if config.algorithm == "grpo" or trajectory_level:
        return _sample_variance([credit.outcome for credit in group])
    if not group:
        return 0.0
    num_turns = np.array([len(credit.turn_rewards) for credit in group])
    rewards = np.zeros((len(group), num_turns.max()))
    rewards[reached_turns(num_turns, num_turns.max())] = np.concatenate([credit.turn_rewards for credit in group])
    compared, member = compared_rewards(rewards, num_turns, config.baseline)
    columns = zip(compared.T, member.T, strict=True)
    return float(np.mean([_sample_variance(values[in_set]) for values, in_set in columns]))


def credit_entropy(turn_advantages: Sequence[float]) -> float | None:
    """H(p) / log K of p_k = |A_k| / sum |A|: 1 where every turn has the same credit, 0 where one turn has it all.

    None where a trajectory has one turn or no advantage other than 0.
    """
    size = np.abs(turn_advantages)
    if len(size) < 2 or not size.any():
        return None
    share = size[size > 0] / size.sum()
    return float(-(share * np.log(share)).sum() / np.log(len(size)))


def all_wrong(trajectories: Sequence[Trajectory], credits: Sequence[Credit]) -> list[bool]:
    """For each trajectory, whether no trajectory of its group is correct."""
    pairs = zip(trajectories, credits, strict=True)
    correct = {trajectory.group_id for trajectory, credit in pairs if credit.outcome == 1.0}
    return [trajectory.group_id not in correct for trajectory in trajectories]


def _by_group(trajectories: Sequence[Trajectory], credits: Sequence[Credit]) -> list[list[Credit]]:
    """The credits that are compared with each other; a group may have none."""
    groups: dict[str, list[Credit]] = {}
    for trajectory, credit in zip(trajectories, credits, strict=True):
        group = groups.setdefault(trajectory.group_id, [])
        if not trajectory.retriever_failed:
            group.append(credit)
    return list(groups.values())


def _any_correct(group: Sequence[Credit]) -> bool:
    return any(credit.outcome == 1.0 for credit in group)


def _sample_variance(values: ArrayLike) -> float:
    values = np.asarray(values)
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
