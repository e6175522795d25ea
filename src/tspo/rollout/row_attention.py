"""Attention of a flat sequence of pieces to the rows of a cache, in the shapes that are fast on a CPU.

Query heads that share a key head are put together, so that each key is read once and not once a query head.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Softmax:
    """How scores become weights: `cap` bounds them by a tanh, and `sinks` (heads,) take a share that reads nothing."""

    cap: float | None = None
    sinks: torch.Tensor | None = None

    def capped(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores within (-cap, cap); a mask comes after it."""
        return scores if self.cap is None else (scores / self.cap).tanh() * self.cap

    def weights(self, scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        """The weights (.., columns) of scores; `sinks` is this one's, in a shape that goes with (.., 1)."""
        weights = scores.softmax(-1)
        if sinks is None:
            return weights
        # exp(total) / (exp(total) + exp(sink)), of which the softmax over both makes this one smaller
        total = scores.float().logsumexp(-1, keepdim=True)
        return weights * torch.sigmoid(total - sinks.float()).to(weights.dtype)


PLAIN = Softmax()


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: Stored,
    values: Stored,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (1, heads, tokens, size) to what a RowCache holds in the pass under way.

    Each token sees its own row up to itself, or the last `sliding_window` tokens of that. Returns (1, tokens, heads,
    size); no mask and no dropout.
    """
    layer, bringing = keys.layer, keys.bringing
    heads, tokens, size = query.shape[1:]
    scaling = size**-0.5 if scaling is None else scaling
    softmax = Softmax(softcap, s_aux)
    layer.window = sliding_window
    window = sliding_window if sliding_window is not None and sliding_window < bringing.longest else None
    # kernels know rows that are seen whole, and nothing but a softmax
    kernels = layer.kernels if window is None and softcap is None and s_aux is None else None
    output = query.new_empty(tokens, heads, layer.value_size)
    if kernels is not None:
        short = _SHORT
        alone = bringing.tokens_up_to(short)
        kernels.decode(query[0], layer.table, bringing.places, alone, layer.key_heads, scaling, output)
    else:
        short = 1
        _decode(query[0] * scaling, keys, output, window, softmax)
    for piece, at in bringing.longer_than(short):
        block, row = divmod(piece.row, BLOCK_ROWS)
        block_keys, block_values = layer.blocks[block]
        prefill = _Prefill(block_keys[row], block_values[row], piece.start, window, softmax, kernels)
        prefill.attend(query[0, :, at] * scaling, output[at])
    return output[None], None


def _decode(query: torch.Tensor, keys: Stored, output: torch.Tensor, window: int | None, softmax: Softmax) -> None:
    """The rows that get a single token; `query` (heads, tokens, size), scaled, and `output` are of the whole pass."""
    heads, tokens, size = query.shape
    key_heads = keys.layer.key_heads
    grouped = query.view(key_heads, heads // key_heads, tokens, size).permute(2, 0, 1, 3)
    grouped_output = output.view(tokens, key_heads, heads // key_heads, -1)
    for part in keys.bringing.by_block:
        if len(part.single):
            blocks = keys.layer.blocks[part.block]
            grouped_output[part.single] = plain_decode(grouped[part.single], *blocks, part, window, softmax)


def plain_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    part: BlockPass,
    window: int | None = None,
    softmax: Softmax = PLAIN,
) -> torch.Tensor:
    """One token a row of a block; `query` and the result are (rows, key heads, heads a key head, size)."""
    live, columns = part.unseen.shape[::3]
    waiting = len(part.single) < live
    if waiting:  # a product of the whole block needs no copy of its keys
        query = query.new_zeros(live, *query.shape[1:]).index_copy_(0, part.single_rows, query)
    scores = softmax.capped(torch.matmul(query, keys[:live, :, :, :columns]))
    scores += part.unseen_in(window)
    sinks = None if softmax.sinks is None else softmax.sinks.view(*query.shape[1:3], 1)
    attended = torch.matmul(softmax.weights(scores, sinks), values[:live, :, :columns])
    return attended[part.single_rows] if waiting else attended


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Many tokens of one row, of which `start` are there already; `keys` and `values` are the row's."""

    keys: torch.Tensor
    values: torch.Tensor
    start: int
    window: int | None
    softmax: Softmax
    kernels: RowKernels | None

    def attend(self, query: torch.Tensor, output: torch.Tensor) -> None:
        """Attention of `query` (heads, tokens, size), scaled, to `output` (tokens, heads, size)."""
        key_heads, size = self.keys.shape[:2]
        heads, tokens = query.shape[:2]
        for first in range(0, tokens, _LATER):
            last = min(first + _LATER, tokens)
            end = self.start + last
            begin = 0 if self.window is None else max(0, self.start + first + 1 - self.window)
            asked = query[:, first:last].reshape(key_heads, -1, size)
            scores = self.softmax.capped(torch.bmm(asked, self.keys[:, :, begin:end]))
            by_head = scores.view(heads, last - first, end - begin)
            if self.kernels is not None:
                self.kernels.causal_softmax(by_head, self.start + first + 1)
            else:
                self._hide(by_head, self.start + first - begin)
                sinks = None if self.softmax.sinks is None else self.softmax.sinks.view(heads, 1, 1)
                scores = self.softmax.weights(by_head, sinks).view_as(scores)
            attended = torch.bmm(scores, self.values[:, begin:end])
            output[first:last] = attended.view(heads, last - first, -1).transpose(0, 1)

    def _hide(self, scores: torch.Tensor, own: int) -> None:
        """Take what a token does not see out of its scores (heads, tokens, columns); `own` is the first's column."""
        count, columns = scores.shape[1:]
        scores[..., own:] += _later_tokens(scores.dtype, scores.device)[:count, :count]
        if self.window is not None and columns > self.window:
            ago = torch.arange(own, own + count, device=scores.device)[:, None] - torch.arange(
                columns, device=scores.device
            )
            scores.masked_fill_(ago >= self.window, -torch.inf)


@cache
def _later_tokens(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What takes the scores of later tokens out of a softmax."""
    return torch.full((_LATER, _LATER), -torch.inf, dtype=dtype, device=device).triu(1)


AttentionInterface.register(NAME, row_attention)
