"""IGPO's reward (Wang et al. 2025, arXiv 2510.14967): how much likelier a turn made the golden answer.

    p[k]    = exp(mean log-probability of the golden answer's tokens, given all that came before turn k)
    r[k]    = p[k + 1] - p[k]
    r[last] = F1 of the answer

The log-probabilities are the policy's own, teacher-forced: `answer_log_probability` of each turn, which training fills
in through `AnswerScorer`. As in the authors' code it is the first golden answer's. That code gives -2 to a trajectory
with unbalanced tags or no answer; here F1 is then 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from tspo.errors import BadInput
from tspo.rewards.matching import f1
from tspo.trajectory import Trajectory

FIELD = "answer_log_probability"
"""Where a turn carries the golden answer's mean log-probability before that turn."""


class AnswerScorer(Protocol):
    """The one thing that this reward wants of a model."""

    def answer_log_probabilities(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[float]:
        """For each prefix, the mean log-probability (natural) of its answer's tokens if they came next."""


def information_gain_rewards(trajectory: Trajectory) -> list[float]:
    """What each turn earns by the rule above. Raises BadInput where a turn has no log-probability."""
    before = [math.exp(_log_probability(trajectory, k)) for k in range(len(trajectory.turns))]
    gains = [after - earlier for earlier, after in itertools.pairwise(before)]
    return [*gains, f1(trajectory.answer, trajectory.golden_answers)]


def _log_probability(trajectory: Trajectory, k: int) -> float:
    value = trajectory.turns[k].extra.get(FIELD)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 0:
        raise BadInput(
            f"trajectory {trajectory.trajectory_id}, turn {k}: reward information_gain needs {FIELD!r}, a number up to "
            "0 that a model gives; tspo train writes it"
        )
    return float(value)
