"""How a batch goes through a model: as rows with padding behind them, or as one packed sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from tspo.training.batch import Batch
from tspo.training.update import packed_attention

Arrange = Callable[[Batch], tuple[dict[str, Any], torch.Tensor]]
"""The arguments of a model's `forward` for a batch, and the mask of the tokens before the loss's."""


def padded_rows(batch: Batch) -> tuple[dict[str, Any], torch.Tensor]:
    """The batch as token ids (B, longest), 0 after a trajectory's end, and the mask of the tokens before the loss's.

    Padding behind the end of a row is seen by none of its tokens: causal attention needs no mask, and its fast kernel
    runs.
    """
    lengths = batch.lengths.tolist()
    ids = pad_sequence(list(torch.split(batch.token_ids, lengths)), batch_first=True)
    before = pad_sequence(list(torch.split(_before_loss(batch), lengths)), batch_first=True)
    return {"input_ids": ids}, before


def packed_sequence(batch: Batch) -> tuple[dict[str, Any], torch.Tensor]:
    """The batch as token ids (1, T) with its trajectories' bounds, and the mask of the tokens before the loss's."""
    return {"input_ids": batch.token_ids[None]} | packed_attention.bounds(batch.lengths), _before_loss(batch)[None]


def _before_loss(batch: Batch) -> torch.Tensor:
    return torch.cat([batch.in_loss[1:], batch.in_loss.new_zeros(1)])


@torch.no_grad()
def pack_if_possible(policy: Any, autocast: torch.dtype | None) -> bool:
    """Give `policy` packed attention, where its logits stay what they are with its own, and say whether it has it.

    Two trajectories of unlike length show it: models differ in what their attention adds (a cap, sinks), and in
    whether they hand the bounds through.
    """
    two = probe(policy)
    rows, before_in_rows = padded_rows(two)
    sequence, before = packed_sequence(two)
    with torch.autocast(policy.device.type, dtype=autocast, enabled=autocast is not None):
        own = policy(**rows, use_cache=False).logits[before_in_rows]
        try:
            policy.set_attn_implementation(packed_attention.NAME)
            if alike(policy(**sequence, use_cache=False).logits[before], own):
                return True
        except (TypeError, ValueError):  # the bounds do not reach its attention, or it has one of its own
            pass
    try:
        policy.set_attn_implementation("sdpa")
    except ValueError:
        policy.set_attn_implementation("eager")
    return False


def probe(policy: Any) -> Batch:
    """Two short trajectories of unlike length, for finding out what a policy's `forward` does."""
    lengths = torch.tensor([5, 8])
    ids = torch.arange(13) % policy.get_input_embeddings().num_embeddings
    in_loss = (ids != 0) & (torch.arange(13) != 5)
    nothing = torch.zeros(int(in_loss.sum()))
    zeros = torch.zeros(2, dtype=torch.int64)
    return Batch(ids, lengths, in_loss, nothing, nothing, zeros, zeros.bool()).to(policy.device)


def alike(logits: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two ways to compute logits agree, to what half precision leaves of them."""
    return bool((logits.float() - others.float()).norm() <= 1e-2 * others.float().norm())
