"""Log-probabilities of the loss's tokens only: most of a search trajectory is prompt and observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tspo.training.batch import Batch
from tspo.training.update.layout import Arrange, alike, packed_sequence, padded_rows, probe

_CHUNK = 512
"""Tokens whose logits are held at once, in float32."""

Scorer = Callable[[Batch], torch.Tensor]
"""The log-probability (N,) float32 of each of a batch's tokens of the loss under softmax(logits / temperature).

The batch is on the policy's device; with gradient where that is enabled.
"""


def scorer_of(policy: Any, *, temperature: float, autocast: torch.dtype | None, whole: bool, packed: bool) -> Scorer:
    """The scorer of `policy`, its forward passes in the precision `autocast`, where that is given.

    A policy that is `whole` in this process goes through its decoder, and its output layer only at the loss's tokens,
    a chunk at a time. One that is spread over processes, or whose logits are more than its output layer's product,
    goes through its own `forward`, which computes them at those tokens. `packed` is for a policy whose attention is
    `packed_attention`; others get rows with padding behind them.
    """
    arrange = packed_sequence if packed else padded_rows
    parts = _decoder_and_head(policy, arrange) if whole else None

    def score(batch: Batch) -> torch.Tensor:
        inputs, before = arrange(batch)
        labels = batch.token_ids[batch.in_loss]
        with torch.autocast(labels.device.type, dtype=autocast, enabled=autocast is not None):
            if parts is not None:
                decoder, head = parts
                states = decoder(**inputs, use_cache=False).last_hidden_state[before]
                return score_states(states, head, labels, temperature)
            kept = before.any(0).nonzero()[:, 0]
            logits = policy(**inputs, logits_to_keep=kept, use_cache=False).logits[before[:, kept]]
            return _score_logits(logits, labels, temperature)

    return score


def score_states(states: torch.Tensor, head: nn.Module, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Scores (N,) of `labels` (N,) from the states (N, size) before them; logits are computed again to go back."""
    logprobs = []
    for some, tokens in zip(torch.split(states, _CHUNK), torch.split(labels, _CHUNK), strict=True):
        if torch.is_grad_enabled():
            logprobs.append(checkpoint(_score_chunk, some, head, tokens, temperature, use_reentrant=False))
        else:
            logprobs.append(_score_chunk(some, head, tokens, temperature))
    return torch.cat(logprobs)


def _score_chunk(states: torch.Tensor, head: nn.Module, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    return _score_logits(head(states), labels, temperature)


def _score_logits(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits.float() / temperature).log_softmax(-1).gather(-1, labels[:, None])[:, 0]


@torch.no_grad()
def _decoder_and_head(policy: Any, arrange: Arrange) -> tuple[nn.Module, nn.Module] | None:
    """The decoder and the output layer of `policy`, where its logits are the layer's product with its states.

    They are not where a model scales or caps its logits: a few tokens show it.
    """
    decoder, head = policy.get_decoder(), policy.get_output_embeddings()
    inputs, _ = arrange(probe(policy))
    logits = policy(**inputs, use_cache=False).logits
    states = getattr(decoder(**inputs, use_cache=False), "last_hidden_state", None)
    if head is None or states is None:
        return None
    return (decoder, head) if alike(head(states), logits) else None


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """`model` without dropout while the block runs."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
