"""The advantage of a turn, given to every token that the policy sampled in it."""

from __future__ import annotations

import torch
from torch.nn.functional import pad


def spread_over_tokens(turn_advantages: torch.Tensor, turn_number: torch.Tensor) -> torch.Tensor:
    """Token advantages (trajectories, tokens), float32, 0 where the policy sampled nothing.

    `turn_advantages` (trajectories, turns); `turn_number` (trajectories, tokens) int64 is 0 on feedback and padding and
    k on what was sampled in the k-th turn, counted from 1. Source: the objective in docs/method.md, where A_{i,k} is
    given to every token that the policy sampled in turn k.
    """
    return pad(turn_advantages.to(torch.float32), (1, 0)).gather(1, turn_number)
