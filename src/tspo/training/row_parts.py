"""The rows of an update by what their gradient is: of groups that are all wrong, of others, or exactly nothing.

A step's gradient is a sum over its trajectories. Those of all-wrong groups come first, so that when the last of
them has had its backward pass the accumulated gradient is theirs alone and its norm can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from trl.trainer.utils import split_tensor_dict

Scores = tuple[torch.Tensor, Any, Any]
"""What TRL scores rows with: log-probabilities and entropies (rows, completion tokens), and a loss of experts."""


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
    weight: float
    """The share of the step's policy tokens that are here, times the number of its micro-batches."""


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
    tokens = scored.sum(1)[order].view(count, size).sum(1)
    weights = (tokens * count / tokens.sum().clamp(min=1)).tolist()
    num_all_wrong, num_silent = kind.count(0), kind.count(2)
    reads_norm = max(num_all_wrong - 1, 0) // size
    batches = split_tensor_dict(ordered, count)
    for i, batch in enumerate(batches):
        all_wrong = num_all_wrong - i * size if i == reads_norm else 0
        quiet = min(max((i + 1) * size - (len(order) - num_silent), 0), size)
        parts = RowParts(all_wrong, size - all_wrong - quiet, quiet, i == reads_norm, weights[i])
        # A backward pass must reach the parameters, or the optimizer would leave them out of its step.
        batch["parts"] = replace(parts, others=1, silent=size - 1) if quiet == size else parts
    return batches


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if _has_rows(values[0]) else values[0]


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


class PartScores:
    """The scores of a micro-batch, part by part, with the part of all-wrong groups cut off from the others' graph."""

    def __init__(self, parts: RowParts) -> None:
        self.parts = parts
        self._graph = self._leaf = torch.zeros(0)

    def score(self, score_rows: Callable[[slice], Scores]) -> Scores:
        """The scores of all rows, from those of some; no loss of experts."""
        parts = self.parts
        split, end = parts.all_wrong, parts.all_wrong + parts.others
        logprobs, entropies = [], []
        for rows, with_gradient in (
            (slice(0, split), True),
            (slice(split, end), True),
            (slice(end, end + parts.silent), False),
        ):
            if rows.start == rows.stop:
                continue
            with torch.set_grad_enabled(with_gradient):
                scores = score_rows(rows)
            logprobs.append(scores[0])
            entropies.append(scores[1])
        if parts.all_wrong:
            self._graph = logprobs[0]
            self._leaf = logprobs[0] = logprobs[0].detach().requires_grad_()
        return torch.cat(logprobs), torch.cat(entropies), None

    def all_wrong_loss(self, loss: torch.Tensor) -> torch.Tensor | None:
        """A scalar whose gradient is that of `loss` through the rows of all-wrong groups; None without such rows.

        The gradient of `loss` itself then goes through the other rows only.
        """
        if not self.parts.all_wrong:
            return None
        (gradient,) = torch.autograd.grad(loss, self._leaf, retain_graph=True)
        return (gradient * self._graph).sum()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The L2 norm of what has been accumulated in `.grad`, over all parameters as one vector."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item()
