"""Attention of a flat sequence of pieces to the rows of a cache, in the shapes that are fast on a CPU.

Query heads that share a key head are put together, so that each key is read once and not once a query head.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface

from tspo.rollout.kv_cache import BLOCK_ROWS, BlockPass, Stored
from tspo.rollout.row_kernels import RowKernels

NAME = "tspo_rows"
"""The attention's name in transformers."""

_SHORT = 32
"""Tokens of a piece from which kernels attend one by one, at most; those of longer ones are put into products."""

_LATER = 512
"""Tokens of a prefill whose scores are held at once, at most."""


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: Stored,
    values: Stored,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (1, heads, tokens, size) to what a RowCache holds in the pass under way.

    Each token sees its own row up to itself. Returns (1, tokens, heads, size); no mask and no dropout.
    """
    layer, bringing = keys.layer, keys.bringing
    heads, tokens, size = query.shape[1:]
    scaling = size**-0.5 if scaling is None else scaling
    output = query.new_empty(tokens, heads, layer.value_size)
    if layer.kernels is not None:
        short = _SHORT
        alone = bringing.tokens_up_to(short)
        layer.kernels.decode(query[0], layer.table, bringing.places, alone, layer.key_heads, scaling, output)
    else:
        short = 1
        _decode(query[0] * scaling, keys, output)
    for piece, at in bringing.longer_than(short):
        block, row = divmod(piece.row, BLOCK_ROWS)
        block_keys, block_values = layer.blocks[block]
        _prefill(query[0, :, at] * scaling, block_keys[row], block_values[row], piece.start, output[at], layer.kernels)
    return output[None], None


def _decode(query: torch.Tensor, keys: Stored, output: torch.Tensor) -> None:
    """The rows that get a single token; `query` (heads, tokens, size), scaled, and `output` are of the whole pass."""
    heads, tokens, size = query.shape
    key_heads = keys.layer.key_heads
    grouped = query.view(key_heads, heads // key_heads, tokens, size).permute(2, 0, 1, 3)
    grouped_output = output.view(tokens, key_heads, heads // key_heads, -1)
    for part in keys.bringing.by_block:
        if len(part.single):
            grouped_output[part.single] = plain_decode(grouped[part.single], *keys.layer.blocks[part.block], part)


def plain_decode(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: BlockPass) -> torch.Tensor:
    """One token a row of a block; `query` and the result are (rows, key heads, heads a key head, size)."""
    live, columns = part.unseen.shape[::3]
    waiting = len(part.single) < live
    if waiting:  # a product of the whole block needs no copy of its keys
        query = query.new_zeros(live, *query.shape[1:]).index_copy_(0, part.single_rows, query)
    scores = torch.matmul(query, keys[:live, :, :, :columns])
    scores += part.unseen
    attended = torch.matmul(scores.softmax(-1), values[:live, :, :columns])
    return attended[part.single_rows] if waiting else attended


def _prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    start: int,
    output: torch.Tensor,
    kernels: RowKernels | None,
) -> None:
    """Tokens of one row from `start` on; `query` (heads, tokens, size), scaled, and `output` (tokens, heads, size)."""
    key_heads, size = keys.shape[:2]
    heads, tokens = query.shape[:2]
    for first in range(0, tokens, _LATER):
        last = min(first + _LATER, tokens)
        end = start + last
        asked = query[:, first:last].reshape(key_heads, -1, size)
        scores = torch.bmm(asked, keys[:, :, :end])
        by_head = scores.view(heads, last - first, end)
        if kernels is not None:
            kernels.causal_softmax(by_head, start + first + 1)
        else:
            later = _later_tokens(query.dtype, query.device)
            by_head[..., start + first :] += later[: last - first, : last - first]
            scores = scores.softmax(-1)
        attended = torch.bmm(scores, values[:, :end])
        output[first:last] = attended.view(heads, last - first, -1).transpose(0, 1)


@cache
def _later_tokens(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What takes the scores of later tokens out of a softmax."""
    return torch.full((_LATER, _LATER), -torch.inf, dtype=dtype, device=device).triu(1)


AttentionInterface.register(NAME, row_attention)
