"""The objective of an update: each term as a formula and the code that computes it.

    L = sum over the update's N tokens of  w_t (surrogate_t + beta KL_t)

w_t makes the sum a mean (`token_weights`). Notation: pi is the policy that learns, old is the policy before the first
update on the batch, ref is the reference; A is the advantage of the token's turn; r = pi(token) / old(token). All
tensors are of shape (N,), one entry per token of the loss, float32; log-probabilities are natural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Surrogate = Literal["ppo", "gspo", "cispo", "reinforce"]
Average = Literal["tokens", "trajectories", "constant"]
KL = Literal["k3", "k1"]


@dataclass(frozen=True, slots=True)
class Objective:
    """Which surrogate, mean and KL; `average_length` counts in tokens, for `average="constant"`."""

    surrogate: Surrogate = "ppo"
    average: Average = "tokens"
    average_length: int = 1
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    kl: KL = "k3"


def token_losses(
    objective: Objective,
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    trajectory: torch.Tensor,
    reference_logprobs: torch.Tensor | None,
) -> torch.Tensor:
    """surrogate_t + beta KL_t of each token (N,); `trajectory` (N,) int64 says whose token it is.

    `reference_logprobs` is needed where beta > 0.
    """
    losses = surrogate(objective, logprobs, old_logprobs, advantages, trajectory)
    if objective.beta > 0.0 and reference_logprobs is not None:
        losses = losses + objective.beta * kl_estimate(objective.kl, logprobs, reference_logprobs)
    return losses


def surrogate(
    objective: Objective,
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    trajectory: torch.Tensor,
) -> torch.Tensor:
    """The policy term of each token (N,), by the objective's name."""
    low, high = 1.0 - objective.epsilon, 1.0 + objective.epsilon_high
    if objective.surrogate == "reinforce":
        return reinforce(logprobs, advantages)
    r = ratio_of(objective, logprobs, old_logprobs, trajectory)
    return (
        cispo(logprobs, r, advantages, high) if objective.surrogate == "cispo" else ppo_clip(r, advantages, low, high)
    )


def ratio_of(
    objective: Objective, logprobs: torch.Tensor, old_logprobs: torch.Tensor, trajectory: torch.Tensor
) -> torch.Tensor:
    """The ratio that the objective is about, on each token (N,)."""
    if objective.surrogate == "gspo":
        return trajectory_ratio(logprobs, old_logprobs, trajectory)
    return ratio(logprobs, old_logprobs)


def ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """r = exp(log pi - log old)."""
    return torch.exp(logprobs - old_logprobs)


def trajectory_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, trajectory: torch.Tensor) -> torch.Tensor:
    """s = exp(mean over the trajectory's tokens of (log pi - log old)), on each of them: sg[s] pi / sg[pi].

    The value is the trajectory's, the gradient the token's own, so that advantages of single turns do not cancel.
    Source: GSPO-token (arXiv 2507.18071, section 4.3); where a trajectory has one advantage it is GSPO.
    """
    count = trajectory.bincount().clamp(min=1)
    total = torch.zeros(len(count), dtype=logprobs.dtype, device=logprobs.device)
    mean = total.index_add(0, trajectory, (logprobs - old_logprobs).detach()) / count
    return torch.exp(mean)[trajectory] * torch.exp(logprobs - logprobs.detach())


def ppo_clip(ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """-min(r A, clip(r, low, high) A); `high` above 2 - `low` is clip-higher.

    Source: PPO (arXiv 1707.06347), equation 7; clip-higher: DAPO (arXiv 2503.14476), equation 10.
    """
    return -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)


def cispo(logprobs: torch.Tensor, ratio: torch.Tensor, advantages: torch.Tensor, high: float) -> torch.Tensor:
    """-min(r, high) A log pi, without gradient through the weight: no token's gradient is dropped.

    Source: MiniMax-M1 (arXiv 2506.13585), equations 4 and 5, without a lower bound, as its authors ran it.
    """
    return -ratio.clamp(max=high).detach() * advantages * logprobs


def reinforce(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-A log pi; with A = 1 it is the cross-entropy of SFT."""
    return -advantages * logprobs


def kl_estimate(kind: KL, logprobs: torch.Tensor, reference_logprobs: torch.Tensor) -> torch.Tensor:
    """An estimate of KL(pi || ref) at each token, d = log ref - log pi:  k1 = -d,  k3 = exp(d) - d - 1.

    k1 is unbiased, but its gradient has a mean of 0: as a term of the loss it only adds noise, and k3 pulls.
    Source: Schulman, "Approximating KL divergence" (2020).
    """
    delta = reference_logprobs - logprobs
    return -delta if kind == "k1" else torch.exp(delta) - delta - 1.0


def token_weights(objective: Objective, loss_tokens: torch.Tensor, total: int) -> torch.Tensor:
    """w_t, the same on all of a trajectory's tokens: (B,) float32, for trajectories of `loss_tokens` (B,) tokens.

        tokens         1 / N                       every token of the update counts the same (DAPO)
        trajectories   1 / (B' n_i)                every trajectory does, by the mean over its n_i tokens (GRPO)
        constant       1 / (B' average_length)     a sum over tokens, whatever their number (Dr. GRPO)

    `total` is N, or B', the trajectories with tokens in the loss, of the whole update over all processes.
    """
    one = torch.ones(len(loss_tokens), dtype=torch.float32)
    if objective.average == "trajectories":
        return one / (max(total, 1) * loss_tokens.clamp(min=1))
    return one / (max(total, 1) * (objective.average_length if objective.average == "constant" else 1))


def clipped(objective: Objective, ratio: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the tokens whose ratio is past the clip range on the side that their advantage pushes to."""
    above = (ratio > 1.0 + objective.epsilon_high) & (advantages > 0)
    below = (ratio < 1.0 - objective.epsilon) & (advantages < 0)
    return above if objective.surrogate == "cispo" else above | below
