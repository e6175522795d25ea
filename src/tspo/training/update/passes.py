"""An update's trajectories cut into passes: what goes through the model together, forward and back.

A gradient is a sum over trajectories, so that their order is free. All-wrong groups come first: after the last of
their backward passes the accumulated gradient is theirs alone, and its norm can be read. Trajectories that cannot have
a gradient are in none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tspo.training.batch import Batch

_PASS_TOKENS = {"cpu": 1024}
"""On a CPU, longer passes are slower for leaving the cache."""
_PASS_TOKENS_ELSEWHERE = 16384


@dataclass(frozen=True, slots=True)
class Pass:
    """The trajectories `rows` of a batch, all of all-wrong groups or none."""

    rows: list[int]
    all_wrong: bool = False


def learning_rows(batch: Batch, beta: float) -> list[int]:
    """The trajectories that have a gradient: all under a KL term, else those with an advantage other than 0."""
    told = [bool(part.any()) for part in torch.split(batch.advantages, batch.loss_tokens.tolist())]
    return [row for row in range(len(batch)) if beta > 0.0 or told[row]]


def plan_passes(batch: Batch, rows: Sequence[int], *, max_rows: int, max_tokens: int) -> list[Pass]:
    """Passes over `rows`, of at most `max_rows` trajectories and `max_tokens` tokens, counted as if padded.

    A trajectory that is longer has a pass to itself. Equally long ones go together: shorter before longer within the
    all-wrong groups, and within the others.
    """
    wrong = batch.all_wrong.tolist()
    return [
        Pass(some, all_wrong)
        for all_wrong in (True, False)
        for some in _cut([row for row in rows if wrong[row] == all_wrong], batch.lengths, max_rows, max_tokens)
    ]


def pass_tokens(device: torch.device) -> int:
    """How many tokens go through the model together where the settings do not say."""
    return _PASS_TOKENS.get(device.type, _PASS_TOKENS_ELSEWHERE)


def _cut(rows: Sequence[int], lengths: torch.Tensor, max_rows: int, max_tokens: int) -> Iterator[list[int]]:
    inside: list[int] = []
    for row in sorted(rows, key=lambda row: int(lengths[row])):
        if inside and (len(inside) == max_rows or (len(inside) + 1) * int(lengths[row]) > max_tokens):
            yield inside
            inside = []
        inside.append(row)
    if inside:
        yield inside
