"""The one step that every group-relative estimator shares: a value against its group's mean and spread."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["std", "none"]

EPSILON = 1e-6
"""Added to the standard deviation, as verl's GRPO has it."""


def group_relative(
    values: NDArray[np.float64], member: NDArray[np.bool_], group_index: NDArray[np.int64], scale: Scale
) -> NDArray[np.float64]:
    """(x - mean S) / (std S + eps), S being the members of x's group in x's column; no division under "none".

    `values` and `member` are (N, M); the columns are independent, and cells that are not a `member` count
    nowhere and come out as 0. `group_index` (N,) holds any labels that can be sorted. std is the sample one
    (n - 1). Where S has one member, or all its values are equal, the result is exactly 0.
    """
    num_columns = values.shape[1]
    labels, group = np.unique(group_index, return_inverse=True)
    num_sets = len(labels) * num_columns
    set_index = (group[:, None] * num_columns + np.arange(num_columns))[member]
    x = values[member]

    def total(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(set_index, weights, minlength=num_sets).astype(np.float64, copy=False)

    size = np.bincount(set_index, minlength=num_sets)
    deviation = x - (total(x) / np.maximum(size, 1))[set_index]
    # By comparison and not by std = 0, which rounding can miss: against whichever member was written last.
    some_member = np.zeros(num_sets)
    some_member[set_index] = x
    varies = total((x != some_member[set_index]).astype(np.float64)) > 0

    if scale == "std":
        std = np.sqrt(total(deviation**2) / np.maximum(size - 1, 1))
        deviation /= std[set_index] + EPSILON
    relative = np.zeros(values.shape)
    relative[member] = np.where(varies[set_index], deviation, 0.0)
    return relative


def reached_turns(num_turns: NDArray[np.int64], max_turns: int) -> NDArray[np.bool_]:
    """(N, max_turns): whether trajectory i has a turn k."""
    return np.arange(max_turns) < num_turns[:, None]


def on_every_turn(advantage: NDArray[np.float64], num_turns: NDArray[np.int64], max_turns: int) -> NDArray[np.float64]:
    """(N, max_turns): a trajectory's one advantage (N,) on each of its turns, zeros past the end."""
    return np.where(reached_turns(num_turns, max_turns), advantage[:, None], 0.0)
