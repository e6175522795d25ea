"""Attention of a flat sequence of pieces to the rows of a cache, in the shapes that are fast on a CPU.

Query heads that share a key head are put together, so that each key is read once and not once a query head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from tspo.rollout.kv_cache import BLOCK_ROWS, BlockPass, RowCache
from tspo.rollout.row_kernels import RowKernels, fits_kernels, row_kernels

_NAME = "tspo_rows"

_LATER = 512
"""Tokens of a prefill whose scores are held at once, at most."""

_cache: ContextVar[RowCache] = ContextVar("cache")


@contextmanager
def attention_to_rows(model: PreTrainedModel, rows: RowCache) -> Iterator[None]:
    """While the block runs, `model` attends to `rows`."""
    usual = model.config._attn_implementation
    token = _cache.set(rows)
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = usual
        _cache.reset(token)


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (1, heads, tokens, size) to the blocks of a RowCache that the pass under way is for.

    Each token sees its own row up to itself. Returns (1, tokens, heads, size); no mask and no dropout.
    """
    heads, tokens, size = query.shape[1:]
    key_heads, value_size = values[0].shape[1], values[0].shape[3]
    group = heads // key_heads
    scaled = query[0] * (size**-0.5 if scaling is None else scaling)
    grouped = scaled.view(key_heads, group, tokens, size)
    output = query.new_empty(tokens, heads, value_size)
    grouped_output = output.view(tokens, key_heads, group, value_size).permute(1, 2, 0, 3)
    kernels = row_kernels() if fits_kernels(query) else None
    for part, block_keys, block_values in zip(_cache.get().passes, keys, values, strict=True):
        if kernels is not None:
            kernels.decode(scaled, block_keys, block_values, part, output)
        elif len(part.single):
            at = part.single if part.longer else part.tokens
            grouped_output[:, :, at] = plain_decode(grouped[:, :, at], block_keys, block_values, part)
        for piece, at in part.longer:
            row = piece.row % BLOCK_ROWS
            _prefill(
                grouped[:, :, at], block_keys[row], block_values[row], piece.start, grouped_output[:, :, at], kernels
            )
    return output[None], None


def plain_decode(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: BlockPass) -> torch.Tensor:
    """One token a row of a block; `query` and the result are (key heads, heads a key head, rows, size)."""
    live = len(part.unseen)
    waiting = len(part.single) < live
    asked = query.permute(2, 0, 1, 3)
    if waiting:  # a product of the whole block needs no copy of its keys
        asked = asked.new_zeros(live, *asked.shape[1:]).index_copy_(0, part.single_rows, asked)
    scores = torch.matmul(asked, keys[:live, :, :, : part.columns])
    scores += part.unseen
    attended = torch.matmul(scores.softmax(-1), values[:live, :, : part.columns])
    return (attended[part.single_rows] if waiting else attended).permute(1, 2, 0, 3)


def _prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    output: torch.Tensor,
    kernels: RowKernels | None,
) -> None:
    """Tokens of one row from `start` on; `query` and `output` (key heads, heads a key head, tokens, size)."""
    key_heads, group, tokens, size = query.shape
    for first in range(0, tokens, _LATER):
        last = min(first + _LATER, tokens)
        end = start + last
        asked = query[:, :, first:last].reshape(key_heads, -1, size)
        scores = torch.bmm(asked, keys[:, :, :end])
        by_head = scores.view(key_heads * group, last - first, end)
        if kernels is not None:
            kernels.causal_softmax(by_head, start + first + 1)
        else:
            later = _later_tokens(query.dtype, query.device)
            by_head[..., start + first :] += later[: last - first, : last - first]
            scores = scores.softmax(-1)
        attended = torch.bmm(scores, values[:, :end])
        output[:, :, first:last] = attended.view(key_heads, group, last - first, -1)


@cache
def _later_tokens(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What takes the scores of later tokens out of a softmax."""
    return torch.full((_LATER, _LATER), -torch.inf, dtype=dtype, device=device).triu(1)


AttentionInterface.register(_NAME, row_attention)
