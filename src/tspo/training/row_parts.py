"""The rows of an update by what their gradient is: of groups that are all wrong, of others, or exactly nothing.

A step's gradient is a sum over its trajectories. Those of all-wrong groups come first, so that when the last of
them has had its backward pass the accumulated gradient is theirs alone and its norm can be read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from trl.trainer.utils import split_tensor_dict

from tspo.training.policy_tokens import forward_passes


@dataclass(frozen=True, slots=True)
class RowParts:
    """What the rows of one micro-batch are, in their order, and what part of its step it is."""

    all_wrong: int
    """Rows whose backward pass comes first, by itself, for the norm to be read after it."""
    others: int
    """Rows of the backward pass that follows."""
    silent: int
    """Rows without any gradient, which need no backward pass."""
    reads_norm: bool
    """Whether the last row of the step that is of an all-wrong group is here, or would be if there were one."""
    ends_step: bool
    """Whether this is the last micro-batch of its step."""


def order_step(micro_batches: list[dict[str, Any]], beta: float) -> list[dict[str, Any]]:
    """The rows of one optimizer step in as many micro-batches, each with its RowParts as `parts`.

    Rows of all-wrong groups come first and silent ones last, shorter before longer: a row is silent where it has
    no KL (`beta` 0) and no advantage but 0 on its policy tokens. The batches are TRL's with `all_wrong` (rows,)
    bool among their tensors.
    """
    step = {name: _joined([batch[name] for batch in micro_batches]) for name in micro_batches[0]}
    scored = step["completion_mask"] * step["tool_mask"]
    silent = ((step["advantages"] * scored) == 0.0).all(1) if beta == 0.0 else torch.zeros_like(step["all_wrong"])
    kind = torch.where(silent, 2, torch.where(step["all_wrong"], 0, 1)).tolist()
    lengths = (step["prompt_mask"].sum(1) + step["completion_mask"].sum(1)).tolist()
    order = sorted(range(len(kind)), key=lambda row: (kind[row], lengths[row]))

    ordered = {name: value[order] if _has_rows(value) else value for name, value in step.items()}
    count, size = len(micro_batches), len(order) // len(micro_batches)
    num_all_wrong, num_silent = kind.count(0), kind.count(2)
    reads_norm = max(num_all_wrong - 1, 0) // size
    batches = split_tensor_dict(ordered, count)
    for i, batch in enumerate(batches):
        all_wrong = num_all_wrong - i * size if i == reads_norm else 0
        quiet = min(max((i + 1) * size - (len(order) - num_silent), 0), size)
        parts = RowParts(all_wrong, size - all_wrong - quiet, quiet, i == reads_norm, i == count - 1)
        # A backward pass must reach the parameters, or the optimizer would leave them out of its step.
        batch["parts"] = replace(parts, others=1, silent=size - 1) if quiet == size else parts
    return batches


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if _has_rows(values[0]) else values[0]


def take_rows(batch: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The batch with only `rows` of what has rows; the rest as it is."""
    return {name: value[rows] if _has_rows(value) else value for name, value in batch.items()}


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


@dataclass(frozen=True, slots=True)
class RowPass:
    """Rows of a micro-batch that go through the model together."""

    rows: torch.Tensor
    with_gradient: bool
    ends_all_wrong: bool
    """Whether these are the last rows of all-wrong groups in the micro-batch."""


def row_passes(parts: RowParts, lengths: torch.Tensor, max_tokens: int) -> list[RowPass]:
    """A micro-batch as passes of at most `max_tokens` tokens, padding among them: of all-wrong groups, others, silent.

    `lengths` (rows,) are the tokens of each row. Each pass has its own backward pass, so that what is kept for it
    does not grow with the micro-batch.
    """
    passes = []
    first = 0
    for count, with_gradient in ((parts.all_wrong, True), (parts.others, True), (parts.silent, False)):
        if count:
            found = forward_passes(lengths[first : first + count], max_tokens)
            passes += [RowPass(rows + first, with_gradient, False) for rows in found]
        first += count
        if first == parts.all_wrong and passes:
            passes[-1] = replace(passes[-1], ends_all_wrong=True)
    return passes
