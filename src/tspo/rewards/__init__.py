"""What a trajectory and each of its turns earn, by name.

A new reward is a short file and one line in `REWARDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tspo.rewards.evidence import evidence_rewards
from tspo.rewards.folr import turn_rewards
from tspo.rewards.information_gain import information_gain_rewards
from tspo.rewards.outcome import outcome_rewards
from tspo.rewards.search_r1 import search_r1_rewards
from tspo.rewards.stepsearch import stepsearch_rewards

Placed = Literal["trajectory", "standing", "steps"]
"""`trajectory`: one reward, repeated on every turn. `standing`: what a turn is worth, a sum of which makes no sense.
`steps`: what a turn adds, and in the last turn the answer's reward; the sum is the trajectory's."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward, and what it wants to be given."""

    rewards: Callable[..., Any]
    """From "scores": (outcome (N,), num_turns (N,), first_occurrence (N,), **options) -> (N, K);
    from "trajectory": (trajectory, **options) -> a list with one number a turn."""
    reads: Literal["scores", "trajectory"]
    placed: Placed
    options: tuple[str, ...] = ()
    """The keyword options it has, which are also fields of `CreditConfig`."""
    needs: Literal["", "passages", "model"] = ""
    """What a trajectory must carry besides its text: golden passages, or log-probabilities that a model gives."""


REWARDS: dict[str, Reward] = {
    "outcome": Reward(outcome_rewards, "scores", "trajectory"),
    "folr": Reward(turn_rewards, "scores", "standing", ("alpha", "credit")),
    "search_r1": Reward(
        search_r1_rewards,
        "trajectory",
        "trajectory",
        ("match", "format_score", "broken_format_score", "retrieval_score"),
    ),
    "evidence": Reward(evidence_rewards, "trajectory", "steps", ("match", "ignore")),
    "stepsearch": Reward(stepsearch_rewards, "trajectory", "steps", ("process_scale",), needs="passages"),
    "information_gain": Reward(information_gain_rewards, "trajectory", "steps", needs="model"),
}
