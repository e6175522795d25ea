"""A reward that is a function of a Python program: others know what it gave, as the run's trajectories record it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tspo.errors import BadInput
from tspo.rewards import Reward
from tspo.trajectory import Trajectory

TurnReward = Callable[[Trajectory], Sequence[float]]
"""Gives a trajectory one number a turn."""

_PREFIX = "python:"
_RECORDED = "turn_rewards"
_HERE: dict[str, TurnReward | Reward] = {}


def reward_name(reward: TurnReward | Reward) -> str:
    """What settings call a function, or a Reward over one: python:NAME. Raises BadInput for one without a name."""
    function = reward.rewards if isinstance(reward, Reward) else reward
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise BadInput(f"reward: {function!r} has no name to be told by; make it a function with def")
    if isinstance(reward, Reward) and reward.placed == "trajectory":
        raise BadInput(f"reward: {name} is placed on the trajectory; place it on steps, all of it in the last turn")
    return f"{_PREFIX}{name}"


def know_reward(reward: TurnReward | Reward) -> None:
    """Have its name mean this reward, from here on, in this process."""
    _HERE[reward_name(reward)] = reward


def is_in_python(name: object) -> bool:
    """Whether this is the name of a Python program's own reward."""
    return isinstance(name, str) and name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isidentifier()


def check_known(name: str) -> None:
    """Raise BadInput for the reward of another Python program, with which nothing can be trained here."""
    if is_in_python(name) and name not in _HERE:
        raise BadInput(
            f"credit.reward: {name} is a function of the Python program that began the run; go on there, or name "
            "another reward"
        )


def reward_in_python(name: str, *, additive: bool) -> Reward:
    """The reward of this name; where this process does not know it, what was recorded.

    A function's numbers are what turns add where the estimator is `additive`, else what each is worth.
    """
    reward = _HERE.get(name)
    if isinstance(reward, Reward):
        return reward

    def rewards(trajectory: Trajectory) -> list[float]:
        given = trajectory.extra.get(_RECORDED)  # first: a function may be dear, or another one since
        if given is None and reward is not None:
            given = reward(trajectory)
        return _one_a_turn(given, trajectory, name)

    return Reward(rewards, "trajectory", "steps" if additive else "standing")


def _one_a_turn(given: Any, trajectory: Trajectory, name: str) -> list[float]:
    try:
        numbers = [float(number) for number in given]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(trajectory.turns) or not all(map(math.isfinite, numbers)):
        raise BadInput(
            f"trajectory {trajectory.trajectory_id}: reward {name} gave {given!r}, not a number for each of its "
            f"{len(trajectory.turns)} turns"
        )
    return numbers
