"""What a trajectory carries through verl's batch, in the extra fields of its agent loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tspo.trajectory import Trajectory, trajectory_from_json, trajectory_to_json

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


_rows: ContextVar[list[CarriedRow] | None] = ContextVar("rows of the batch whose advantages are computed", default=None)


@contextmanager
def handed_over(rows: list[CarriedRow]) -> Iterator[None]:
    """Give the estimator the rows of the batch that it is about to be called with, in the batch's order."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def rows_handed_over() -> list[CarriedRow]:
    """The rows of the batch under way; raises RuntimeError where the trainer handed over none."""
    rows = _rows.get()
    if rows is None:
        raise RuntimeError(
            "this estimator needs turns, which verl's own trainer does not hand over; "
            "set trainer.v1.trainer_mode=tspo_sync"
        )
    return rows
