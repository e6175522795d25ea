"""The update: passes over a batch, their gradients together, and one step of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from tspo.training.batch import Batch, no_trajectory
from tspo.training.objective import Objective, clipped, kl_estimate, ratio_of, token_losses, token_weights
from tspo.training.update.exchange import average_gradients, gradient_norm
from tspo.training.update.passes import Pass, plan_passes
from tspo.training.update.scoring import Scorer


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

    def passes(self, batch: Batch, beta: float) -> list[Pass]:
        """The passes of `batch`; the same number in all processes where each of them takes part in each."""
        passes = plan_passes(batch, beta=beta, max_rows=self.max_rows, max_tokens=self.max_tokens)
        if not self.spread:
            return passes
        count = self.accelerator.gather(torch.tensor([len(passes)], device=self.accelerator.device))
        return [Pass(one.rows) for one in passes] + [Pass([])] * (int(count.max()) - len(passes))


@dataclass(frozen=True, slots=True)
class Update:
    """What one update did: its metrics over all processes, and the log-probabilities (N,) that it computed here."""

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
    `loss`, `entropy`, `kl`, `clip_share` and `logprob_gap` over those tokens, `learning_rate`, `grad_norm` before
    clipping, and `grad_norm_all_wrong`, its part from all-wrong groups, where each process has all parameters.
    """
    accelerator = learner.accelerator
    counts = torch.stack([batch.loss_tokens.sum(), (batch.loss_tokens > 0).sum()])
    tokens, trajectories = accelerator.reduce(counts.to(accelerator.device), "sum").tolist()
    weights = token_weights(objective, batch.loss_tokens, tokens if objective.average == "tokens" else trajectories)

    learner.optimizer.zero_grad()
    passes = learner.passes(batch, objective.beta)
    all_wrong = [one for one in passes if one.all_wrong]
    scored = [_backward(learner, batch, weights, objective, one) for one in all_wrong]
    metrics: dict[str, float] = {}
    if not learner.spread:
        metrics["grad_norm_all_wrong"] = gradient_norm(learner.model.parameters(), accelerator.num_processes)
    rest = passes[len(all_wrong) :]
    scored += [_backward(learner, batch, weights, objective, one, one is rest[-1]) for one in rest]

    parameters = list(learner.model.parameters())  # only now: under FSDP a pass without gradient leaves others here
    if not learner.spread:
        average_gradients(parameters, accelerator.num_processes)
    metrics["grad_norm"] = float(accelerator.clip_grad_norm_(parameters, learner.max_grad_norm))
    metrics["learning_rate"] = float(learner.schedule.get_last_lr()[0])
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
    with torch.set_grad_enabled(one.with_gradient):
        logprobs, entropies = learner.score(some)
        old = logprobs.detach() if some.old_logprobs is None else some.old_logprobs
        losses = token_losses(objective, logprobs, old, some.advantages, trajectory, some.reference_logprobs)
        weighted = losses * weights[one.rows].to(losses.device)[trajectory] if one.rows else losses
        loss = weighted.sum()
    if one.with_gradient:
        accelerator.sync_gradients = is_last
        accelerator.backward(loss * accelerator.num_processes)  # what is averaged is to be a sum
    with torch.no_grad():
        terms = [weighted, entropies, (logprobs - some.sampled_logprobs).abs()]
        terms.append(clipped(objective, ratio_of(objective, logprobs, old, trajectory), some.advantages))
        if some.reference_logprobs is not None:
            terms.append(kl_estimate(objective.kl, logprobs, some.reference_logprobs))
        sums = torch.stack([term.sum(dtype=torch.float64) for term in terms])
    return _Scored(one.rows, sums, logprobs.detach())


def _metrics(
    learner: Learner, objective: Objective, batch: Batch, scored: list[_Scored], tokens: int
) -> dict[str, float]:
    """The loss, and means over the tokens of all processes; only what can change."""
    names = ["loss", "entropy", "logprob_gap", "clip_share"] + ["kl"] * (batch.reference_logprobs is not None)
    sums = torch.zeros(len(names), dtype=torch.float64)
    for one in scored:
        if one.rows:
            sums += one.sums.cpu()
    totals = learner.accelerator.reduce(sums.to(learner.accelerator.device), "sum").tolist()
    metrics = {name: total / max(tokens, 1) for name, total in zip(names, totals, strict=True)}
    metrics["loss"] = totals[0]
    if batch.old_logprobs is None or objective.surrogate == "reinforce":
        del metrics["clip_share"]  # every ratio is 1
    return metrics


def _in_order(batch: Batch, scored: list[_Scored]) -> torch.Tensor:
    """The passes' log-probabilities in the batch's order: (N,) float32, on the CPU."""
    of_row: list[torch.Tensor] = [torch.zeros(0)] * len(batch)
    loss_tokens = batch.loss_tokens
    for one in scored:
        parts = torch.split(one.logprobs.float().cpu(), loss_tokens[one.rows].tolist()) if one.rows else ()
        for row, part in zip(one.rows, parts, strict=True):
            of_row[row] = part
    return torch.cat(of_row) if of_row else torch.zeros(0)


def score_batch(learner: Learner, batch: Batch, score: Scorer) -> torch.Tensor:
    """The log-probabilities (N,) that `score` gives to the tokens of `batch`, without gradient, on the CPU."""
    scored = []
    for one in learner.passes(batch, 0.0):
        with torch.no_grad():
            logprobs, _ = score((batch.take(one.rows) if one.rows else no_trajectory()).to(learner.accelerator.device))
        scored.append(_Scored(one.rows, torch.zeros(0), logprobs))
    return _in_order(batch, scored)


def with_other_policies(learner: Learner, batch: Batch, updates: int) -> Batch:
    """The batch with what its updates compare with: the policy before them, where there are several, and the reference.

    A single update compares the policy with itself as it is, which needs no pass of its own.
    """
    old = score_batch(learner, batch, learner.score) if updates > 1 else None
    reference = None if learner.reference is None else score_batch(learner, batch, learner.reference)
    return replace(batch, old_logprobs=old, reference_logprobs=reference)
