"""A trajectory as the flat token sequence that an update is computed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspo.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Completion:
    """All tokens after the prompt, in order; arrays of shape (tokens,).

    `turn_index` (int64) is the turn whose policy sampled the token, -1 for feedback. `logprobs` (float64)
    are the sampling policy's, 0 on feedback.
    """

    token_ids: NDArray[np.int64]
    turn_index: NDArray[np.int64]
    logprobs: NDArray[np.float64]

    @property
    def sampled(self) -> NDArray[np.int64]:
        """1 where the policy sampled the token, 0 on feedback: the mask of loss, KL and ratios."""
        return (self.turn_index >= 0).astype(np.int64)


def completion_of(trajectory: Trajectory) -> Completion:
    """The sampled and appended tokens of a trajectory that came from a rollout."""
    token_ids: list[int] = []
    turn_index: list[int] = []
    logprobs: list[float] = []
    for k, turn in enumerate(trajectory.turns):
        if turn.token_ids is None or turn.logprobs is None:
            raise ValueError(f"{trajectory.trajectory_id}: turn {k} has no tokens; it did not come from a rollout")
        token_ids += turn.token_ids
        turn_index += [k] * len(turn.token_ids)
        logprobs += turn.logprobs
        feedback = turn.feedback_token_ids or []
        token_ids += feedback
        turn_index += [-1] * len(feedback)
        logprobs += [0.0] * len(feedback)
    return Completion(np.array(token_ids), np.array(turn_index), np.array(logprobs, dtype=np.float64))
