"""How credit is assigned: the options of rewards and advantages, and which of them go together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

from tspo.advantages import ADVANTAGES
from tspo.advantages.group_relative import Scale
from tspo.advantages.igpo import Order
from tspo.advantages.mt_grpo import Unsearched
from tspo.advantages.tspo import Baseline, Level
from tspo.errors import BadInput
from tspo.rewards import REWARDS, Reward
from tspo.rewards.folr import CreditRule
from tspo.rewards.in_python import is_in_python, reward_in_python
from tspo.rewards.matching import Match

OWN_REWARD = "own"
"""Names the reward that an algorithm was published with."""


PRESETS: dict[str, dict[str, str]] = {
    "recommended": {"credit": "through_first_turn", "level": "turn"},
    "abstract": {"credit": "first_turn", "level": "turn"},
    "turn_if_all_wrong": {"credit": "through_first_turn", "level": "turn_if_all_wrong"},
}
"""Readings of the paper, by name. The first is what evidence speaks for (docs/evidence.md), and the default; `abstract`
takes the abstract by its words, "the step where the ground-truth answer first appears"; the last follows a public
summary, by which the level of advantages depends on the composition of the group."""


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """How credit is assigned. Raises BadInput that lists the valid values where one is wrong."""

    algorithm: str = "tspo"
    """The advantage estimator, a name in `ADVANTAGES`."""
    alpha: float = 0.5
    """What a near miss earns, in [0, 1]; 0 leaves the outcome alone. The paper's value is not known."""
    credit: CreditRule = "through_first_turn"
    """Which turns of a near miss earn it: all up to the one where the answer first came up, or that one alone."""
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
    reward: str = OWN_REWARD
    """What turns earn: a name in `REWARDS`, python:NAME for a Python program's own, or the algorithm's own."""
    gamma: float = 1.0
    """Discount of later turns' rewards, a turn, in [0, 1]: reinforce_plus_plus, gigpo, igpo; a token: ppo."""
    gae_lambda: float = 1.0
    """How far advantages look past the critic's next value, in [0, 1]: ppo."""
    turn_weight: float = 1.0
    """Weight of the turn's own advantage beside the trajectory's: mt_grpo, gigpo."""
    anchor_similarity: float = 1.0
    """Feedback that is this much alike is one state, in (0, 1]; at 1 only the same text: gigpo."""
    order: Order = "normalize_first"
    """Whether rewards are first normalised or first summed: igpo."""
    unsearched: Unsearched = "outcome"
    """What the only turn of a trajectory has for its advantage: mt_grpo."""
    format_score: float = 0.2
    """What keeping the format is worth: search_r1."""
    broken_format_score: float = 0.0
    """What a wrong answer earns in a broken format: search_r1."""
    retrieval_score: float = 0.0
    """What a passage with an answer adds where the answer is wrong: search_r1."""
    process_scale: float = 1.0
    """Factor of what searches earn: stepsearch."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name, valid in valid_choices().items():
            value = getattr(self, name)
            if value not in valid and not (name == "reward" and is_in_python(value)):
                raise BadInput(f"{name}: {value!r} is not one of {', '.join(valid)}")
        shares = ("alpha", "gamma", "gae_lambda", "anchor_similarity")
        for name in (*shares, "format_score", "broken_format_score", "retrieval_score"):
            self._check_number(name, 1.0)
        for name in ("turn_weight", "process_scale"):
            self._check_number(name, math.inf)
        if self.anchor_similarity == 0:
            raise BadInput("anchor_similarity: 0 would make all states one; give a number above 0, up to 1")
        is_sequence = isinstance(self.ignore, list | tuple)
        if not is_sequence or not all(isinstance(answer, str) for answer in self.ignore):
            raise BadInput(f"ignore: {self.ignore!r} is not a list of strings")
        object.__setattr__(self, "ignore", tuple(self.ignore))  # YAML gives a list
        if why_not := self._why_no_pair():
            raise BadInput(f"reward: {self.reward_name} does not go with algorithm {self.algorithm}: {why_not}")

    @property
    def reward_name(self) -> str:
        """The reward's name in `REWARDS`, or that of a Python program's own."""
        return ADVANTAGES[self.algorithm].reward if self.reward == OWN_REWARD else self.reward

    @property
    def rewards(self) -> Reward:
        """What turns earn."""
        if is_in_python(self.reward_name):
            return reward_in_python(self.reward_name, additive=ADVANTAGES[self.algorithm].takes != "turns")
        return REWARDS[self.reward_name]

    @property
    def needs_critic(self) -> bool:
        """Whether advantages are those of tokens, by a critic's values; verl's trainer has one."""
        return "values" in ADVANTAGES[self.algorithm].inputs

    def check_no_critic(self) -> None:
        """Raise BadInput where a critic is needed, for those that have none."""
        if self.needs_critic:
            raise BadInput(
                f"algorithm: {self.algorithm} needs a critic's value of every token; tspo train --engine verl has one"
            )

    def with_algorithm(self, algorithm: str) -> CreditConfig:
        """The same options for `algorithm` with its own reward; itself where that is its algorithm."""
        return self if algorithm == self.algorithm else replace(self, algorithm=algorithm, reward=OWN_REWARD)

    def _check_number(self, name: str, most: float) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0.0 <= value <= most or math.isinf(value):
            what = "a number from 0 on" if math.isinf(most) else f"a number from 0 to {most:g}"
            raise BadInput(f"{name}: {value!r} is not {what}")

    def _why_no_pair(self) -> str:
        """Why the reward makes no sense with the algorithm; empty where it does."""
        estimator, placed = ADVANTAGES[self.algorithm], self.rewards.placed
        if placed == "standing" and estimator.takes != "turns":
            return "it says what a turn is worth, and its sum over turns would reward long trajectories; use tspo"
        if placed == "trajectory" and estimator.per_turn:
            return "it gives the turns nothing of their own to compare; use grpo"
        if placed == "steps" and estimator.takes == "turns" and self.baseline == "absorbing":
            return (
                "a trajectory that ended would earn its answer's reward again in every later turn; use baseline=reached"
            )
        return ""


def valid_choices() -> dict[str, tuple[str, ...]]:
    """The valid values of each field of `CreditConfig` that is a choice."""
    return {
        "algorithm": tuple(ADVANTAGES),
        "reward": (OWN_REWARD, *REWARDS),
        "order": get_args(Order),
        "unsearched": get_args(Unsearched),
        "credit": get_args(CreditRule),
        "match": get_args(Match),
        "baseline": get_args(Baseline),
        "level": get_args(Level),
        "scale": get_args(Scale),
    }
