"""Log-probabilities of the policy's tokens only: most of a trajectory is prompt and feedback.

TRL scores every position where there is no Triton, and the mask then throws nearly all of it away.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_CHUNK = 512
"""Tokens whose logits are held at once, in float32."""

_PASS_TOKENS = {"cpu": 1024}
"""Tokens, padding among them, of one pass: on a CPU, longer passes are slower for leaving the cache."""

_PASS_TOKENS_ELSEWHERE = 16384


def pass_tokens(device: torch.device) -> int:
    """How many tokens, padding among them, go through the model together."""
    return _PASS_TOKENS.get(device.type, _PASS_TOKENS_ELSEWHERE)


def score_tokens(
    hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label, and the entropy of the distribution it is from.

    `hidden` (N, size) are the states before the tokens `labels` (N,); both results are (N,) float32, the
    entropy without gradient. Logits are computed again in the backward pass rather than kept.
    """
    logprobs, entropies = [], []
    for states, tokens in zip(torch.split(hidden, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        if torch.is_grad_enabled():
            logprob, entropy = checkpoint(_score, states, head, tokens, temperature, use_reentrant=False)
        else:
            logprob, entropy = _score(states, head, tokens, temperature)
        logprobs.append(logprob)
        entropies.append(entropy)
    return torch.cat(logprobs), torch.cat(entropies)


def _score(
    states: torch.Tensor, head: nn.Linear, tokens: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(states).float() / temperature
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, tokens[:, None])[:, 0], entropy


def forward_passes(lengths: torch.Tensor, max_tokens: int) -> list[torch.Tensor]:
    """Rows, cut into passes of at most `max_tokens` tokens: equally long ones together, so that little is padding.

    `lengths` (rows,) counts tokens; a row that is too long for a pass has one to itself.
    """
    order = lengths.argsort(stable=True)
    passes: list[list[int]] = [[]]
    for row in order.tolist():
        if passes[-1] and (len(passes[-1]) + 1) * int(lengths[row]) > max_tokens:
            passes.append([])
        passes[-1].append(row)
    return [torch.tensor(rows) for rows in passes]


def flush_left(
    input_ids: torch.Tensor, wanted: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move each row's padding to its end, so that causal attention needs no mask and its fast kernel runs.

    All are (rows, tokens); `wanted` moves with the tokens. Returns ids (0 on padding) and `wanted` (False there),
    cut to the longest row.
    """
    keep = attention_mask.bool()
    lengths = keep.sum(1)
    place = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.zeros(place.shape, dtype=input_ids.dtype)
    moved = torch.zeros(place.shape, dtype=torch.bool)
    # Boolean indexing goes row by row, left to right, on both sides.
    ids[place] = input_ids[keep]
    moved[place] = wanted[keep]
    return ids, moved


@torch.no_grad()
def explains_logits(head: nn.Module, hidden: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether `head` on the states `hidden` (rows, size) gives the model's own `logits` (rows, vocabulary).

    It does not where a model scales or caps its logits, or where its last hidden states come before a norm.
    """
    difference = head(hidden).float() - logits.float()
    return bool(difference.norm() <= 1e-2 * logits.float().norm())
