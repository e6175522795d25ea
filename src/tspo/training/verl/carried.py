"""What a trajectory carries through verl's batch, in the extra fields of its agent loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tspo.credit import Credit, CreditConfig, reward_trajectory, score
from tspo.trajectory import Trajectory, trajectory_from_json, trajectory_to_json

if TYPE_CHECKING:
    import torch

TRAJECTORY = "tspo_trajectory"
"""Extra field: the trajectory as a line of the trajectory file."""
TURN_INDEX = "tspo_turn_index"
"""Extra field: for each token of the response, the turn whose policy sampled it, -1 for feedback."""
FIRST_OCCURRENCE = "first_occurrence"
"""Reward information: the turn whose feedback first holds a golden answer, or None."""
OUTCOME = "acc"
"""Reward information: exact match, under the name that verl's validation averages."""


@dataclass(frozen=True, slots=True)
class CarriedRow:
    """What the advantage of one row of verl's batch is computed from."""

    turn_index: list[int]
    trajectory: Trajectory
    padding: bool = False
    """Whether verl made the row, a copy of another one, to fill a batch."""


def carry(trajectory: Trajectory, turn_index: Sequence[int]) -> dict[str, Any]:
    """The extra fields of a trajectory whose response tokens belong to the turns `turn_index`."""
    return {TRAJECTORY: trajectory_to_json(trajectory), TURN_INDEX: list(turn_index)}


def carried_trajectory(extra_fields: Mapping[str, Any]) -> Trajectory:
    """The trajectory in one row's extra fields."""
    line = extra_fields[TRAJECTORY]
    return trajectory_from_json(line, "the agent loop's trajectory", line["trajectory_id"])


def carried_row(extra_fields: Mapping[str, Any], tag: Mapping[str, Any]) -> CarriedRow:
    """One row's extra fields, and what verl says of it."""
    return CarriedRow(
        list(extra_fields[TURN_INDEX]), carried_trajectory(extra_fields), bool(tag.get("is_padding", False))
    )


def credit_that_was(row: CarriedRow, advantages: Sequence[float], config: CreditConfig) -> Credit:
    """The credit that training had: a turn's advantage is the mean of those of its tokens in the response."""
    turns = np.array(row.turn_index[: len(advantages)], dtype=np.int64)
    sampled = turns >= 0
    number = len(row.trajectory.turns)
    total = np.bincount(turns[sampled], np.asarray(advantages, dtype=np.float64)[sampled], minlength=number)
    tokens = np.bincount(turns[sampled], minlength=number)
    outcome, first = score(row.trajectory, config)
    mean = total / np.maximum(tokens, 1)
    return Credit(outcome, first, reward_trajectory(row.trajectory, config), mean.tolist())


@dataclass(frozen=True, slots=True)
class Handover:
    """What the estimator is given beyond verl's own arguments."""

    rows: list[CarriedRow]
    """Of the batch that it is called with, in the batch's order."""
    values: torch.Tensor | None = None
    """The critic's, (rows, response tokens), where there is one."""


_handover: ContextVar[Handover | None] = ContextVar("of the batch whose advantages are computed", default=None)


@contextmanager
def handed_over(handover: Handover) -> Iterator[None]:
    """Give it to the estimator that is about to be called."""
    token = _handover.set(handover)
    try:
        yield
    finally:
        _handover.reset(token)


def what_was_handed_over() -> Handover:
    """That of the batch under way; raises RuntimeError where the trainer handed over nothing."""
    handover = _handover.get()
    if handover is None:
        raise RuntimeError(
            "this estimator needs turns, which verl's own trainer does not hand over; "
            "set trainer.v1.trainer_mode=tspo_sync"
        )
    return handover
