"""Attention of a flat sequence of pieces to the rows of a cache, in the shapes that are fast on a CPU.

Query heads that share a key head are put together, so that each key is read once and not once a query head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from tspo.rollout.kv_cache import Piece, RowCache

_NAME = "tspo_rows"

_ROWS_AT_ONCE = 8
"""Decoding rows of one product on a CPU: each is as long as the longest among them, so few."""

_SCORES_AT_ONCE = 1 << 20
"""Attention scores held at once in a prefill on a CPU: what stays in its cache."""

_cache: ContextVar[RowCache] = ContextVar("cache")


@contextmanager
def attention_to_rows(model: PreTrainedModel, cache: RowCache) -> Iterator[None]:
    """While the block runs, `model` attends to the rows of `cache`."""
    usual = model.config._attn_implementation
    token = _cache.set(cache)
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = usual
        _cache.reset(token)


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (1, heads, tokens, size) to `keys` and `values` (rows, key heads, capacity, size).

    Each token sees its own row up to itself. Returns (1, tokens, heads, size); no mask and no dropout.
    """
    pieces = _cache.get().pieces
    heads, tokens, size = query.shape[1:]
    scale = size**-0.5 if scaling is None else scaling
    grouped = query.view(keys.shape[1], heads // keys.shape[1], tokens, size)
    output = query.new_empty(*grouped.shape[:3], values.shape[3])
    at = 0
    for run in _runs(pieces, _ROWS_AT_ONCE if query.device.type == "cpu" else len(pieces)):
        count = sum(piece.count for piece in run)
        asked, said = grouped[:, :, at : at + count], output[:, :, at : at + count]
        if run[0].count == 1:
            _decode(asked, keys, values, run, scale, said)
        else:
            _prefill(asked, keys, values, run[0], scale, said)
        at += count
    return output.view(1, heads, tokens, -1).transpose(1, 2), None


def _runs(pieces: Sequence[Piece], most: int) -> Iterator[list[Piece]]:
    """Pieces that are computed together: a longer one by itself, single tokens of neighbouring rows up to `most`."""
    run: list[Piece] = []
    for piece in pieces:
        if run and not (piece.count == run[-1].count == 1 and piece.row == run[-1].row + 1 and len(run) < most):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    run: list[Piece],
    scale: float,
    output: torch.Tensor,
) -> None:
    """One token a row; `query` and `output` (key heads, heads a key head, rows, size)."""
    rows = slice(run[0].row, run[-1].row + 1)
    ends = [piece.end for piece in run]
    longest = max(ends)
    mask = None
    if min(ends) < longest:
        seen = torch.arange(longest, device=query.device) < torch.tensor(ends, device=query.device)[:, None]
        mask = seen[:, None, None]
    attended = scaled_dot_product_attention(
        query.permute(2, 0, 1, 3), keys[rows, :, :longest], values[rows, :, :longest], attn_mask=mask, scale=scale
    )
    output.copy_(attended.permute(1, 2, 0, 3))


def _prefill(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, piece: Piece, scale: float, output: torch.Tensor
) -> None:
    """Several tokens of one row; `query` and `output` (key heads, heads a key head, tokens, size)."""
    key_heads, group, tokens, size = query.shape
    step = max(_SCORES_AT_ONCE // (group * piece.end), 16)
    for first in range(0, tokens, step):
        last = min(first + step, tokens)
        end = piece.start + last
        later = torch.full((last - first, last - first), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
        for head in range(key_heads):
            asked = (query[head, :, first:last] * scale).reshape(-1, size)
            scores = torch.mm(asked, keys[piece.row, head, :end].t()).view(group, last - first, end)
            scores[..., piece.start + first :] += later
            weights = scores.softmax(-1).view(-1, end)
            attended = torch.mm(weights, values[piece.row, head, :end])
            output[head, :, first:last] = attended.view(group, last - first, -1)


AttentionInterface.register(_NAME, row_attention)
