"""Who earned what: from trajectories to turn rewards and turn advantages, the same for every engine.

`assign_credit` takes whole groups. An engine that samples in many processes calls `score` where the text is,
gathers the numbers, and goes on with `turn_rewards` and `turn_advantages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspo.advantages import ADVANTAGES
from tspo.advantages.group_relative import Scale, reached_turns
from tspo.advantages.tspo import Baseline, Level
from tspo.errors import BadInput
from tspo.rewards import folr
from tspo.rewards.folr import NO_OCCURRENCE, CreditRule, first_occurrence
from tspo.rewards.matching import Match, exact_match
from tspo.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """How credit is assigned. Raises BadInput that lists the valid values where one is wrong."""

    algorithm: str = "tspo"
    """The advantage estimator, a name in `ADVANTAGES`."""
    alpha: float = 0.5
    """What a near miss earns, in [0, 1]; 0 leaves the outcome alone. The paper's value is not known."""
    credit: CreditRule = "first_turn"
    """Which turns of a near miss earn it: the one where the answer first came up, or all up to that one."""
    match: Match = "token"
    """How an answer is looked for in feedback: as a run of whole tokens, or as a substring."""
    baseline: Baseline = "absorbing"
    """Whom turn k is compared with: all members, ended ones by their last turn; or those that reached it."""
    level: Level = "turn"
    """Turn-level advantages in every group, or only in groups without a correct trajectory."""
    scale: Scale = "std"
    """Divide advantages by the group's standard deviation, or by nothing."""
    ignore: tuple[str, ...] = ("yes", "no")
    """Golden answers that are no evidence when a passage holds them."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name, valid in valid_choices().items():
            value = getattr(self, name)
            if value not in valid:
                raise BadInput(f"{name}: {value!r} is not one of {', '.join(valid)}")
        is_number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not is_number or not 0.0 <= self.alpha <= 1.0:
            raise BadInput(f"alpha: {self.alpha!r} is not a number from 0 to 1")
        is_sequence = isinstance(self.ignore, list | tuple)
        if not is_sequence or not all(isinstance(answer, str) for answer in self.ignore):
            raise BadInput(f"ignore: {self.ignore!r} is not a list of strings")
        object.__setattr__(self, "ignore", tuple(self.ignore))  # YAML gives a list


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


def valid_choices() -> dict[str, tuple[str, ...]]:
    """The valid values of each field of `CreditConfig` that is a choice."""
    return {
        "algorithm": tuple(ADVANTAGES),
        "credit": get_args(CreditRule),
        "match": get_args(Match),
        "baseline": get_args(Baseline),
        "level": get_args(Level),
        "scale": get_args(Scale),
    }


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
    """What each turn earns under the algorithm: (N, K) float64, zeros past a trajectory's end.

    `outcome` (N,) is 0 or 1, `num_turns` (N,) at least 1, `first_occurrence` (N,) 0-based or NO_OCCURRENCE.
    """
    if ADVANTAGES[config.algorithm].rewards == "folr":
        return folr.turn_rewards(outcome, num_turns, first_occurrence, alpha=config.alpha, credit=config.credit)
    num_turns = np.asarray(num_turns, dtype=np.int64)
    reached = reached_turns(num_turns, num_turns.max(initial=0))
    return np.where(reached, np.asarray(outcome, dtype=np.float64)[:, None], 0.0)


def turn_advantages(
    turn_rewards: ArrayLike,
    num_turns: ArrayLike,
    group_index: ArrayLike,
    outcome: ArrayLike,
    config: CreditConfig,
    *,
    compared: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The advantage of each turn under the algorithm: (N, K) float64, zeros past a trajectory's end.

    `turn_rewards` is (N, K) with K at least the longest trajectory, `num_turns` (N,) at least 1,
    `group_index` (N,) labels whose equality makes a group, `outcome` (N,) 0 or 1. Trajectories that are not
    `compared` (N,) bool, by default all, get zeros and are in nobody's baseline, as if they had not been.
    Raises ValueError where the shapes do not fit or a trajectory has no turn or too many.
    """
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

    estimator = ADVANTAGES[config.algorithm]
    options = {name: getattr(config, name) for name in estimator.options}
    advantages = np.zeros(rewards.shape)
    advantages[counts] = estimator.advantages(
        rewards[counts], turns[counts], groups[counts], outcomes[counts], **options
    )
    return advantages


def assign_credit(trajectories: Sequence[Trajectory], config: CreditConfig) -> list[Credit]:
    """The credit of each trajectory, in the order given; a group is all that share a `group_id`.

    Trajectories whose retriever failed have advantages of 0 and are outside their group's baseline.
    """
    scores = [score(trajectory, config) for trajectory in trajectories]
    outcome = np.array([outcome for outcome, _ in scores], dtype=np.float64)
    first = [NO_OCCURRENCE if turn is None else turn for _, turn in scores]
    num_turns = np.array([len(trajectory.turns) for trajectory in trajectories], dtype=np.int64)
    numbers: dict[str, int] = {}
    group_index = [numbers.setdefault(trajectory.group_id, len(numbers)) for trajectory in trajectories]

    rewards = turn_rewards(outcome, num_turns, first, config)
    compared = [not trajectory.retriever_failed for trajectory in trajectories]
    advantages = turn_advantages(rewards, num_turns, group_index, outcome, config, compared=compared)
    return [
        Credit(scores[i][0], scores[i][1], rewards[i, :k].tolist(), advantages[i, :k].tolist())
        for i, k in enumerate(num_turns)
    ]
