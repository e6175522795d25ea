"""What an update is given: a step's trajectories as one packed sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tspo.credit import Credit
from tspo.rollout.completion import completion_of
from tspo.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Batch:
    """B trajectories of T tokens in all, one after another without padding; N of the tokens are the loss's.

    A trajectory's tokens are its prompt, then turns and observations in their order. The loss is over the tokens that
    the policy sampled, but for trajectories whose tool failed: those have none. The first token of a trajectory is
    never the loss's.
    """

    token_ids: torch.Tensor
    """(T,) int64."""
    lengths: torch.Tensor
    """(B,) int64, tokens of each trajectory."""
    in_loss: torch.Tensor
    """(T,) bool, N of them True."""
    advantages: torch.Tensor
    """(N,) float32: A_{i,k} of the turn that the token was sampled in."""
    sampled_logprobs: torch.Tensor
    """(N,) float32, natural log: what the sampler says it sampled the token with."""
    group: torch.Tensor
    """(B,) int64, equal where trajectories are of one group."""
    all_wrong: torch.Tensor
    """(B,) bool, whether no trajectory of the group is correct."""
    old_logprobs: torch.Tensor | None = None
    """(N,) float32, of the policy before its first update on this batch; None where there is but one update."""
    reference_logprobs: torch.Tensor | None = None
    """(N,) float32, of the reference policy; None without a KL term."""

    def __len__(self) -> int:
        """The number of trajectories."""
        return len(self.lengths)

    @property
    def loss_tokens(self) -> torch.Tensor:
        """(B,) int64, tokens of each trajectory that are the loss's."""
        in_loss = torch.split(self.in_loss, self.lengths.tolist())
        return torch.tensor([int(row.sum()) for row in in_loss], dtype=torch.int64)

    def places(self, rows: Sequence[int]) -> torch.Tensor:
        """Where the loss's tokens of some trajectories are among all N: (n,) int64, in the order of `rows`."""
        return _spans(self.loss_tokens, rows)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in tensors.items() if value is not None})

    def take(self, rows: Sequence[int]) -> Batch:
        """The batch of only some trajectories, in the order of `rows`."""
        tokens, in_loss = _spans(self.lengths, rows), self.places(rows)
        by_length = {"token_ids": tokens, "in_loss": tokens}
        by_trajectory = dict.fromkeys(("lengths", "group", "all_wrong"), torch.tensor(rows, dtype=torch.int64))
        taken = {}
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None:
                taken[field.name] = value[(by_length | by_trajectory).get(field.name, in_loss)]
        return replace(self, **taken)


def make_batch(
    trajectories: Sequence[Trajectory], credits: Sequence[Credit], group: Sequence[int], all_wrong: Sequence[bool]
) -> Batch:
    """The batch of trajectories that came from a rollout, with the advantages of their turns on their tokens.

    `group` and `all_wrong` are the batch's. Source: the objective in docs/method.md, where A_{i,k} is given to every
    token that the policy sampled in turn k. Raises ValueError for a trajectory without tokens.
    """
    token_ids: list[ArrayLike] = []
    lengths, in_loss, advantages, sampled_logprobs = [], [], [], []
    for trajectory, credit in zip(trajectories, credits, strict=True):
        prompt = trajectory.prompt_token_ids or []
        completion = completion_of(trajectory)
        sampled = completion.turn_index >= 0
        if trajectory.retriever_failed:
            sampled = np.zeros_like(sampled)
        token_ids += [prompt, completion.token_ids]
        lengths.append(len(prompt) + len(completion.token_ids))
        in_loss += [np.zeros(len(prompt), dtype=np.bool_), sampled]
        advantages.append(np.asarray(credit.turn_advantages)[completion.turn_index[sampled]])
        sampled_logprobs.append(completion.logprobs[sampled])
    return Batch(
        token_ids=torch.from_numpy(_joined(token_ids, np.int64)),
        lengths=torch.tensor(lengths, dtype=torch.int64),
        in_loss=torch.from_numpy(_joined(in_loss, np.bool_)),
        advantages=torch.from_numpy(_joined(advantages, np.float32)),
        sampled_logprobs=torch.from_numpy(_joined(sampled_logprobs, np.float32)),
        group=torch.tensor(group, dtype=torch.int64),
        all_wrong=torch.tensor(all_wrong, dtype=torch.bool),
    )


def no_trajectory() -> Batch:
    """A batch without a token of the loss, for a process that takes part in a pass of others'."""
    nothing, zero = torch.zeros(0), torch.zeros(1, dtype=torch.int64)
    in_loss, lengths = torch.zeros(2, dtype=torch.bool), torch.tensor([2])
    return Batch(torch.zeros(2, dtype=torch.int64), lengths, in_loss, nothing, nothing, zero, zero.bool())


def rows_by_group(batch: Batch, parts: int) -> list[list[int]]:
    """The trajectories of each of `parts`, whole groups to each; where a process has few groups, some have none."""
    group = batch.group.tolist()
    return [[row for row in range(len(batch)) if group[row] % parts == part] for part in range(parts)]


def _spans(lengths: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Where the items of `rows` are, in a flat sequence in which row i has lengths[i] items."""
    ends = lengths.cumsum(0).tolist()
    spans = [torch.arange(ends[row] - int(lengths[row]), ends[row]) for row in rows]
    return torch.cat(spans) if spans else torch.zeros(0, dtype=torch.int64)


def _joined(parts: Sequence[ArrayLike], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts]) if parts else np.zeros(0, dtype=dtype)
