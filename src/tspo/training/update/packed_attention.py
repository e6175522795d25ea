"""Causal attention within each trajectory of a packed sequence, in which no token is padding.

The bounds of the trajectories come as transformers' own arguments for flash attention, `cu_seq_lens_q` and its like,
which its models hand through: gradient checkpointing hands them through again.
"""

from __future__ import annotations

import inspect
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "tspo_packed"
"""The attention's name in transformers."""


def bounds(lengths: torch.Tensor) -> dict[str, Any]:
    """The arguments of a model's `forward` that say where the trajectories of `lengths` (B,) are in the sequence."""
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    positions = torch.cat([torch.arange(length, device=lengths.device) for length in lengths.tolist()])
    return {
        "position_ids": positions[None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of `query` (1, heads, T, size) to `key` and `value` (1, key heads, T, size).

    Returns (1, T, heads, size); there is no mask and no dropout. On a GPU and in half precision it is torch's flash
    attention over lengths of its own. Without bounds it is that of (rows, heads, tokens, size) to what a cache held
    before, and to themselves. Raises ValueError for attention with a cap or with sinks.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError("packed attention has neither a cap nor sinks")
    if cu_seq_lens_q is None:
        return _after_cached(query, key, value, scaling, sliding_window), None
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    if query.device.type == "cuda" and query.dtype != torch.float32:
        output = _flash(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        output = _one_by_one(query, key, value, cu_seq_lens_q.tolist(), scaling, sliding_window)
    return output[None], None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_options()
    options: dict[str, Any] = {"scale": scaling}
    if "window_size" in known:  # no token after, and with a window so many before
        options["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        options["is_causal"] = True
    if "enable_gqa" in known:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    else:
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    attended: Any = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    return attended


@cache
def _varlen_options() -> frozenset[str]:
    """What this version's function takes: versions differ."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: list[int],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    parts = []
    for start, end in pairwise(ends):
        asked, keys, values = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        parts.append(_after_cached(asked, keys, values, scaling, window)[0])
    return torch.cat(parts)


def _after_cached(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    """Causal attention of the last tokens to all, (rows, heads, tokens, size) to (rows, tokens, heads, size)."""
    count, total = query.shape[2], key.shape[2]
    mask = None
    if count < total or (window is not None and window < total):
        places = torch.arange(total, device=query.device)
        ago = places[total - count :, None] - places
        mask = (ago >= 0) & (ago < (window or total))
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
