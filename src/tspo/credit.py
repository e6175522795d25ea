"""Who earned what: from trajectories to turn rewards and turn advantages, the same for every engine.

`assign_credit` takes whole groups. An engine that samples in many processes calls `score` where the text is,
gathers the numbers, and goes on with `turn_rewards` and `turn_advantages`; `reward_trajectory` gives it the turn
rewards that are read from text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspo.advantages import ADVANTAGES, Estimator
from tspo.anchors import anchor_states
from tspo.credit_config import OWN_REWARD, CreditConfig, valid_choices
from tspo.rewards import Reward
from tspo.rewards.folr import NO_OCCURRENCE, first_occurrence
from tspo.rewards.matching import exact_match
from tspo.trajectory import Trajectory

__all__ = [
    "OWN_REWARD",
    "Credit",
    "CreditConfig",
    "assign_credit",
    "reward_trajectory",
    "score",
    "step_rewards",
    "turn_advantages",
    "turn_rewards",
    "valid_choices",
]


@dataclass(slots=True)
class Credit:
    """What one trajectory earned; the two lists have one entry a turn."""

    outcome: float
    """Exact match of the answer: 0.0 or 1.0."""
    first_occurrence: int | None
    """0-based turn whose feedback first holds a golden answer."""
    turn_rewards: list[float]
    turn_advantages: list[float]

    @property
    def teaches(self) -> bool:
        """Whether any turn has an advantage other than 0."""
        return any(advantage != 0.0 for advantage in self.turn_advantages)


def score(trajectory: Trajectory, config: CreditConfig) -> tuple[float, int | None]:
    """One trajectory's outcome and first occurrence: all that credit needs to know of its text."""
    feedbacks = [turn.feedback for turn in trajectory.turns]
    return (
        exact_match(trajectory.answer, trajectory.golden_answers),
        first_occurrence(feedbacks, trajectory.golden_answers, config.match, config.ignore),
    )


def turn_rewards(
    outcome: ArrayLike, num_turns: ArrayLike, first_occurrence: ArrayLike, config: CreditConfig
) -> NDArray[np.float64]:
    """What each turn earns by a reward that needs no text: (N, K) float64, zeros past a trajectory's end.

    `outcome` (N,) is 0 or 1, `num_turns` (N,) at least 1, `first_occurrence` (N,) 0-based or NO_OCCURRENCE.
    Raises ValueError where the reward is read from the trajectory.
    """
    reward = config.rewards
    if reward.reads != "scores":
        raise ValueError(f"{config.reward_name} is read from the trajectory: reward_trajectory gives it")
    rewards: NDArray[np.float64] = reward.rewards(outcome, num_turns, first_occurrence, **_options(reward, config))
    return rewards


def reward_trajectory(trajectory: Trajectory, config: CreditConfig) -> list[float]:
    """What each turn of one trajectory earns. Raises BadInput where it lacks what the reward needs."""
    reward = config.rewards
    if reward.reads == "trajectory":
        earned: list[float] = reward.rewards(trajectory, **_options(reward, config))
        return earned
    outcome, first = score(trajectory, config)
    rewards = turn_rewards([outcome], [len(trajectory.turns)], [NO_OCCURRENCE if first is None else first], config)
    return [float(earned) for earned in rewards[0]]


def step_rewards(
    turn_rewards: NDArray[np.float64], num_turns: NDArray[np.int64], config: CreditConfig
) -> NDArray[np.float64]:
    """Turn rewards (N, K) as ones that add up: a trajectory's one reward is in its last turn."""
    if config.rewards.placed != "trajectory":
        return turn_rewards
    last = np.arange(turn_rewards.shape[1]) == num_turns[:, None] - 1
    return np.where(last, turn_rewards, 0.0)


def turn_advantages(
    turn_rewards: ArrayLike,
    num_turns: ArrayLike,
    group_index: ArrayLike,
    outcome: ArrayLike,
    config: CreditConfig,
    *,
    compared: ArrayLike | None = None,
    anchors: ArrayLike | None = None,
    turn_tokens: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The advantage of each turn under the algorithm: (N, K) float64, zeros past a trajectory's end.

    `turn_rewards` is (N, K) with K at least the longest trajectory, `num_turns` (N,) at least 1,
    `group_index` (N,) labels whose equality makes a group, `outcome` (N,) 0 or 1. Trajectories that are not
    `compared` (N,) bool, by default all, get zeros and are in nobody's baseline, as if they had not been.
    `anchors` (N, K) are the labels that gigpo compares turns by. `turn_tokens` (N, K) are the weights of
    reinforce_plus_plus and its baseline variant, by default 1 each. Raises ValueError where the shapes do not fit, a
    trajectory has no turn or too many, or anchors are wanted and not given; BadInput for an algorithm with a critic.
    """
    config.check_no_critic()
    rewards = np.asarray(turn_rewards, dtype=np.float64)
    turns = np.asarray(num_turns, dtype=np.int64)
    groups, outcomes = np.asarray(group_index), np.asarray(outcome, dtype=np.float64)
    counts = np.ones(turns.shape, dtype=np.bool_) if compared is None else np.asarray(compared, dtype=np.bool_)
    if rewards.ndim != 2 or not turns.shape == groups.shape == outcomes.shape == counts.shape == rewards.shape[:1]:
        raise ValueError(
            f"turn rewards {rewards.shape} do not fit {turns.shape}, {groups.shape}, {outcomes.shape} and "
            f"{counts.shape}"
        )
    if np.any(turns < 1) or np.any(turns > rewards.shape[1]):
        raise ValueError(f"num_turns must be from 1 to {rewards.shape[1]}, the width of turn_rewards")

    estimator, placed = ADVANTAGES[config.algorithm], config.rewards.placed
    if estimator.takes == "trajectory":
        outcomes = rewards[:, :1].sum(1) if placed == "trajectory" else rewards.sum(1)
    elif estimator.takes == "steps":
        rewards = step_rewards(rewards, turns, config)
    given = {"anchors": anchors, "turn_tokens": np.ones(rewards.shape) if turn_tokens is None else turn_tokens}
    inputs = {name: np.asarray(given[name]) for name in estimator.inputs}
    if any(values.shape != rewards.shape for values in inputs.values()):
        raise ValueError(f"{config.algorithm} needs {' and '.join(inputs)} of shape {rewards.shape}")

    advantages = np.zeros(rewards.shape)
    advantages[counts] = estimator.advantages(
        rewards[counts],
        turns[counts],
        groups[counts],
        outcomes[counts],
        **{name: values[counts] for name, values in inputs.items()},
        **_options(estimator, config),
    )
    return advantages


def assign_credit(trajectories: Sequence[Trajectory], config: CreditConfig) -> list[Credit]:
    """The credit of each trajectory, in the order given; a group is all that share a `group_id`.

    Trajectories whose retriever failed have advantages of 0 and are outside their group's baseline. Raises BadInput
    where a trajectory lacks what the reward needs, and for an algorithm with a critic.
    """
    scores = [score(trajectory, config) for trajectory in trajectories]
    outcome = np.array([outcome for outcome, _ in scores], dtype=np.float64)
    first = [NO_OCCURRENCE if turn is None else turn for _, turn in scores]
    num_turns = np.array([len(trajectory.turns) for trajectory in trajectories], dtype=np.int64)
    numbers: dict[str, int] = {}
    group_index = [numbers.setdefault(trajectory.group_id, len(numbers)) for trajectory in trajectories]

    if config.rewards.reads == "scores":
        rewards = turn_rewards(outcome, num_turns, first, config)
    else:
        rewards = _padded([reward_trajectory(trajectory, config) for trajectory in trajectories])
    inputs: dict[str, NDArray[np.float64]] = {}
    if "anchors" in ADVANTAGES[config.algorithm].inputs:
        inputs["anchors"] = _padded(anchor_states(trajectories, config.anchor_similarity))
    if "turn_tokens" in ADVANTAGES[config.algorithm].inputs:
        inputs["turn_tokens"] = _padded(_turn_tokens(trajectories))
    compared = [not trajectory.retriever_failed for trajectory in trajectories]
    advantages = turn_advantages(rewards, num_turns, group_index, outcome, config, compared=compared, **inputs)
    return [
        Credit(scores[i][0], scores[i][1], rewards[i, :k].tolist(), advantages[i, :k].tolist())
        for i, k in enumerate(num_turns)
    ]


def _options(of: Reward | Estimator, config: CreditConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in of.options}


def _turn_tokens(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """The number of tokens sampled in each turn; 1 in all of them where any turn does not say."""
    turns = [[turn.token_ids for turn in trajectory.turns] for trajectory in trajectories]
    known = all(ids is not None for trajectory in turns for ids in trajectory)
    return [[len(ids) if known and ids is not None else 1 for ids in trajectory] for trajectory in turns]


def _padded(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The rows as one array, zeros past their ends."""
    padded = np.zeros((len(rows), max(map(len, rows), default=0)))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
