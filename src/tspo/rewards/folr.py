"""First-Occurrence Latent Reward (FOLR): a near miss earns where the answer first came up in the feedback.

The idea is TSPO's (abstract of arXiv 2601.22776); the formula and its options are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspo.rewards.matching import Match, normalize_answer, occurs_in_raw

CreditRule = Literal["first_turn", "through_first_turn"]

NO_OCCURRENCE = -1
"""Stands for "none" where first occurrences are an integer array."""


def first_occurrence(
    feedbacks: Sequence[str | None],
    golden_answers: Iterable[str],
    match: Match = "token",
    ignore: Iterable[str] = ("yes", "no"),
) -> int | None:
    """The 0-based index of the first turn whose feedback holds a golden answer, or None.

    `feedbacks` has one entry a turn, None where nothing was retrieved. Give it feedback only: a policy that
    is paid for its own text learns to write guesses. Answers in `ignore` (compared after normalisation) and
    answers that are empty after normalisation never occur.
    """
    ignored = {normalize_answer(answer) for answer in ignore}
    answers = {normalize_answer(answer) for answer in golden_answers} - ignored
    for turn, feedback in enumerate(feedbacks):
        if feedback is not None and occurs_in_raw(answers, feedback, match):
            return turn
    return None


def turn_rewards(
    outcome: ArrayLike,
    num_turns: ArrayLike,
    first_occurrence: ArrayLike,
    *,
    alpha: float = 0.5,
    credit: CreditRule = "first_turn",
) -> NDArray[np.float64]:
    """Turn rewards (N, K) float64, K the longest trajectory's turns, zeros past a trajectory's end.

        r[i, k] = 1       if outcome[i] = 1                          (every turn)
                = alpha   if outcome[i] = 0 and turn k is credited   (a near miss)
                = 0       otherwise

    `first_turn` credits k = t, `through_first_turn` k <= t, where t is the first occurrence.
    `outcome` (N,) is 0 or 1, `num_turns` (N,) at least 1, `first_occurrence` (N,) 0-based or NO_OCCURRENCE.
    Raises ValueError where an outcome is neither 0 nor 1.
    """
    outcome = np.asarray(outcome, dtype=np.float64)[:, None]
    num_turns = np.asarray(num_turns, dtype=np.int64)[:, None]
    first = np.asarray(first_occurrence, dtype=np.int64)[:, None]
    if not np.all((outcome == 0.0) | (outcome == 1.0)):
        raise ValueError("FOLR needs outcomes that are 0 or 1")

    turn = np.arange(num_turns.max(initial=0))
    credited = turn == first if credit == "first_turn" else turn <= first
    rewards = np.where(outcome == 1.0, 1.0, np.where(credited, alpha, 0.0))
    return np.where(turn < num_turns, rewards, 0.0)
