"""The update: passes over a batch, their gradients together, and one step of the optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from tspo.training.batch import Batch, no_trajectory
from tspo.training.objective import Objective, clipped, kl_estimate, ratio_of, token_losses, token_weights
from tspo.training.update.exchange import average_gradients, gradient_norm
from tspo.training.update.passes import Pass, learning_rows, plan_passes
from tspo.training.update.scoring import Scorer, evaluating


@dataclass(frozen=True, slots=True)
class Learner:
    """A policy that learns: its model as accelerate prepared it, what scores tokens with it, and its optimizer.

    `reference` scores with the reference policy, where the objective has a KL term. A policy that is `spread` has a
    part of its parameters, gradients or optimizer in each process (FSDP, DeepSpeed).
    """

    accelerator: Accelerator
    model: torch.nn.Module
    score: Scorer
    reference: Scorer | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    max_rows: int
    max_tokens: int
    max_grad_norm: float
    spread: bool = False

    def passes(self, batch: Batch, rows: Sequence[int]) -> list[Pass]:
        """The passes over `rows`; the same number, at least one, in all processes where each takes part in each."""
        passes = plan_passes(batch, rows, max_rows=self.max_rows, max_tokens=self.max_tokens)
        if not self.spread:
            return passes
        count = self.accelerator.gather(torch.tensor([len(passes)], device=self.accelerator.device))
        return [Pass(one.rows) for one in passes] + [Pass([])] * (max(int(count.max()), 1) - len(passes))


@dataclass(frozen=True, slots=True)
class Update:
    """What one update did: its metrics over all processes, and the log-probabilities (N,) that it computed here.

    Those of a trajectory without a gradient, which nothing needs, are NaN.
    """

    metrics: dict[str, float]
    logprobs: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Scored:
    """What one pass computed at its tokens: sums over them by metric, and their log-probabilities."""

    rows: list[int]
    sums: torch.Tensor
    logprobs: torch.Tensor


def update_policy(learner: Learner, batch: Batch, objective: Objective) -> Update:
    """One step of the optimizer on the whole of `batch`, of which each process has its trajectories.

    The gradient is that of the objective over the tokens of all processes, clipped to the learner's norm. Metrics:
    `loss`, `kl` and `clip_share` over those tokens, `logprob_gap` over those of trajectories with a gradient,
    `learning_rate`, `grad_norm` before clipping, and `grad_norm_all_wrong`, its part from all-wrong groups, where each
    process has all parameters. A gradient that is not finite changes nothing, and `skipped` is 1.
    """
    accelerator = learner.accelerator
    counts = torch.stack([batch.loss_tokens.sum(), (batch.loss_tokens > 0).sum()])
    tokens, trajectories = accelerator.reduce(counts.to(accelerator.device), "sum").tolist()
    weights = token_weights(objective, batch.loss_tokens, tokens if objective.average == "tokens" else trajectories)

    learner.optimizer.zero_grad()
    passes = learner.passes(batch, learning_rows(batch, objective.beta))
    all_wrong = [one for one in passes if one.all_wrong]
    scored = [_backward(learner, batch, weights, objective, one) for one in all_wrong]
    metrics: dict[str, float] = {}
    if not learner.spread:
        metrics["grad_norm_all_wrong"] = gradient_norm(learner.model.parameters(), accelerator.num_processes)
    rest = passes[len(all_wrong) :]
    scored += [_backward(learner, batch, weights, objective, one, one is rest[-1]) for one in rest]

    parameters = list(learner.model.parameters())
    if not learner.spread:
        average_gradients(parameters, accelerator.num_processes)
    metrics["grad_norm"] = float(accelerator.clip_grad_norm_(parameters, learner.max_grad_norm))
    metrics["learning_rate"] = float(learner.schedule.get_last_lr()[0])
    metrics["skipped"] = float(not math.isfinite(metrics["grad_norm"]))
    if not metrics["skipped"]:
        learner.optimizer.step()
    learner.schedule.step()
    return Update(_metrics(learner, objective, batch, scored, tokens) | metrics, _in_order(batch, scored))


def _backward(
    learner: Learner, batch: Batch, weights: torch.Tensor, objective: Objective, one: Pass, is_last: bool = False
) -> _Scored:
    """Score the trajectories of one pass, and add the gradient of their part of the objective to what there is."""
    accelerator = learner.accelerator
    some = (batch.take(one.rows) if one.rows else no_trajectory()).to(accelerator.device)
    trajectory = torch.repeat_interleave(some.loss_tokens).to(accelerator.device)
    logprobs = learner.score(some)
    old = logprobs.detach() if some.old_logprobs is None else some.old_logprobs
    losses = token_losses(objective, logprobs, old, some.advantages, trajectory, some.reference_logprobs)
    weighted = losses * weights[one.rows].to(losses.device)[trajectory] if one.rows else losses
    accelerator.sync_gradients = is_last
    accelerator.backward(weighted.sum() * accelerator.num_processes)  # what is averaged is to be a sum
    with torch.no_grad():
        terms = [torch.ones_like(old), weighted, (old - some.sampled_logprobs).abs()]
        terms.append(clipped(objective, ratio_of(objective, logprobs, old, trajectory), some.advantages))
        if some.reference_logprobs is not None:
            terms.append(kl_estimate(objective.kl, logprobs, some.reference_logprobs))
        sums = torch.stack([term.sum(dtype=torch.float64) for term in terms])
    return _Scored(one.rows, sums, logprobs.detach())


def _metrics(
    learner: Learner, objective: Objective, batch: Batch, scored: list[_Scored], tokens: int
) -> dict[str, float]:
    """The loss, and means over the tokens of all processes; only what can change."""
    names = ["scored", "loss", "logprob_gap", "clip_share"] + ["kl"] * (batch.reference_logprobs is not None)
    sums = torch.zeros(len(names), dtype=torch.float64)
    for one in scored:
        if one.rows:
            sums += one.sums.cpu()
    totals = learner.accelerator.reduce(sums.to(learner.accelerator.device), "sum").tolist()
    total = dict(zip(names, totals, strict=True))
    metrics = {"loss": total["loss"]} | {name: total[name] / max(tokens, 1) for name in names[3:]}
    if total["scored"]:
        metrics["logprob_gap"] = total["logprob_gap"] / total["scored"]
    if batch.old_logprobs is None or objective.surrogate == "reinforce":
        del metrics["clip_share"]  # every ratio is 1
    return metrics


def _in_order(batch: Batch, scored: list[_Scored]) -> torch.Tensor:
    """The passes' log-probabilities in the batch's order: (N,) float32, on the CPU; NaN where there was no pass."""
    logprobs = torch.full((len(batch.advantages),), torch.nan)
    for one in scored:
        if one.rows:
            logprobs[batch.places(one.rows)] = one.logprobs.float().cpu()
    return logprobs


def score_batch(learner: Learner, batch: Batch, score: Scorer, rows: Sequence[int] | None = None) -> torch.Tensor:
    """The log-probabilities (N,) that `score` gives to the tokens of `batch`, without gradient, on the CPU.

    Those of trajectories that are not among `rows` are NaN.
    """
    scored = []
    with evaluating(learner.model), torch.no_grad():
        for one in learner.passes(batch, range(len(batch)) if rows is None else rows):
            some = batch.take(one.rows) if one.rows else no_trajectory()
            scored.append(_Scored(one.rows, torch.zeros(0), score(some.to(learner.accelerator.device))))
    return _in_order(batch, scored)


def with_other_policies(learner: Learner, batch: Batch, updates: int, beta: float) -> Batch:
    """The batch with what its updates compare with: the policy before them, where there are several, and the reference.

    A single update compares the policy with itself as it is, which needs no pass of its own.
    """
    rows = learning_rows(batch, beta)
    old = score_batch(learner, batch, learner.score, rows) if updates > 1 else None
    reference = None if learner.reference is None else score_batch(learner, batch, learner.reference, rows)
    return replace(batch, old_logprobs=old, reference_logprobs=reference)
