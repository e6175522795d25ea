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
    scaled = query[0] * (size**-0.5 if scaling is None else scaling)
    key_heads, value_size = values[0].shape[1], values[0].shape[3]
    grouped = scaled.view(key_heads, heads // key_heads, tokens, size)
    output = query.new_empty(*grouped.shape[:3], value_size)
    for part, block_keys, block_values in zip(_cache.get().passes, keys, values, strict=True):
        if len(part.single):
            at = part.single if part.longer else part.tokens
            output[:, :, at] = _decode(grouped[:, :, at], block_keys, block_values, part)
        for piece, at in part.longer:
            row = piece.row % BLOCK_ROWS
            _prefill(grouped[:, :, at], block_keys[row], block_values[row], piece.start, output[:, :, at])
    return output.view(1, heads, tokens, value_size).transpose(1, 2), None


def _decode(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: BlockPass) -> torch.Tensor:
    """One token a row of a block; `query` and the result are (key heads, heads a key head, rows, size)."""
    live = len(part.unseen)
    waiting = len(part.single) < live
    asked = query.permute(2, 0, 1, 3)
    if waiting:  # a product of the whole block needs no copy of its keys
        asked = asked.new_zeros(live, *asked.shape[1:]).index_copy_(0, part.single_rows, asked)
    scores = torch.matmul(asked, keys[:live])
    scores += part.unseen
    attended = torch.matmul(scores.softmax(-1), values[:live])
    return (attended[part.single_rows] if waiting else attended).permute(1, 2, 0, 3)


def _prefill(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int, output: torch.Tensor) -> None:
    """Tokens of one row from `start` on; `query` and `output` (key heads, heads a key head, tokens, size)."""
    key_heads, group, tokens, size = query.shape
    later = _later_tokens(query.dtype, query.device)
    for first in range(0, tokens, _LATER):
        last = min(first + _LATER, tokens)
        end = start + last
        asked = query[:, :, first:last].reshape(key_heads, -1, size)
        scores = torch.bmm(asked, keys[:, :, :end])
        scores.view(key_heads, group, last - first, end)[..., start + first :] += later[: last - first, : last - first]
        attended = torch.bmm(scores.softmax(-1), values[:, :end])
        output[:, :, first:last] = attended.view(key_heads, group, last - first, -1)


@cache
def _later_tokens(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What takes the scores of later tokens out of a softmax."""
    return torch.full((_LATER, _LATER), -torch.inf, dtype=dtype, device=device).triu(1)


AttentionInterface.register(_NAME, row_attention)
