"""TRL's loss over what the policy sampled, pass by pass, without padding; the gradient is the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from trl import GRPOTrainer

from tspo.training.diagnostics import PREFIX
from tspo.training.pass_metrics import GAP, AloneAccelerator, PassMetrics, metrics_of_pass, metrics_of_step
from tspo.training.policy_tokens import explains_logits, flush_left, forward_passes, pass_tokens, score_tokens
from tspo.training.row_parts import order_step, row_passes, take_rows
from tspo.training.shared_gradients import average_gradients, gradient_norm
from tspo.training.token_details import LogRatios

_WHOLE_HERE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where each process has all parameters and gradients."""

_TOKEN_SUMS = {"dapo", "cispo", "vespo"}
"""TRL's losses that are sums over tokens; the others are means over the rows that they are given."""


_PROMPT_FIELDS = ("prompt_ids", "prompt_mask")
_COMPLETION_FIELDS = (
    "completion_ids",
    "completion_mask",
    "advantages",
    "sampled_with",
    "tool_mask",
    "old_per_token_logps",
    "sampling_per_token_logps",
    "ref_per_token_logps",
    "importance_sampling_ratio",
)


def _trim_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """The batch without columns that are padding in every row: prompts on the left, completions on the right."""
    prompt = int(inputs["prompt_mask"].sum(1).max())
    completion = int(inputs["completion_mask"].sum(1).max())
    trimmed = dict(inputs)
    for name in _PROMPT_FIELDS:
        trimmed[name] = inputs[name][:, inputs[name].shape[1] - prompt :]
    for name in _COMPLETION_FIELDS:
        value = inputs.get(name)
        if value is not None and value.shape[1] == inputs["completion_mask"].shape[1]:
            trimmed[name] = value[:, :completion]
    return trimmed


class UpdateByPasses(GRPOTrainer):
    """TRL's trainer with log-probabilities at the policy's tokens only, and a backward pass for each forward pass.

    A batch has TRL's fields and `tool_mask`; `sampled_with`, `row` and `all_wrong` (trajectories, ..) tell what the
    sampler said, whose row it is and whether its group is all wrong. `_scored` is the mask of the policy's tokens, and
    `_log_ratios` takes their ratios where it is set.
    """

    accelerator: Accelerator | AloneAccelerator
    _buffered_inputs: list[dict[str, Any]] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._scored = torch.zeros(0)
        self._updated: dict[str, Any] | None = None
        self._passes: list[PassMetrics] = []
        self._log_ratios: LogRatios | None = None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's micro-batch; the rows of each optimizer step are in the order of `order_step`."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self._adds_up_over_rows():
            return inputs
        batches = self._buffered_inputs or []
        count = self.args.gradient_accumulation_steps
        steps = [batches[start : start + count] for start in range(0, len(batches), count)]
        self._buffered_inputs = ordered = [batch for step in steps for batch in order_step(step, self.beta)]
        return ordered[self._step % len(ordered)]

    def _adds_up_over_rows(self) -> bool:
        """Whether a step's gradient is a sum over its rows, whatever their order, and is in `.grad` as it grows."""
        args, accelerator = self.args, self.accelerator
        here = accelerator.distributed_type in _WHOLE_HERE and args.n_gpu <= 1
        plain = accelerator.scaler is None and not accelerator.has_lomo_optimizer
        by_row = self.loss_type != "bnpo" and self.top_entropy_quantile == 1.0
        only_loss = not (self.aux_loss_enabled or self._entropy_bonus_enabled)
        whole_steps = args.steps_per_generation % args.gradient_accumulation_steps == 0
        return here and plain and by_row and only_loss and whole_steps

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, without the padding that this micro-batch does not need.

        Where a step's gradient is a sum over rows, it is computed pass by pass (`row_passes`), each with its own
        backward pass: the gradient is in `.grad` afterwards, and what is returned is only the loss's value.
        """
        if "parts" not in inputs:
            return self._loss_of(model, _trim_padding(inputs))
        parts = inputs["parts"]
        policy = self.accelerator.unwrap_model(model)  # the wrapper would exchange gradients at every pass
        processes = self.accelerator.num_processes
        lengths = inputs["prompt_mask"].sum(1) + inputs["completion_mask"].sum(1)
        tokens = (inputs["completion_mask"] * inputs["tool_mask"]).sum(1)
        total = torch.zeros((), device=lengths.device)
        if parts.reads_norm and not parts.all_wrong:
            self._note(PREFIX + "grad_norm_all_wrong", gradient_norm(policy.parameters(), processes))
        for one in row_passes(parts, lengths, pass_tokens(lengths.device)):
            some = _trim_padding(take_rows(inputs, one.rows.to(lengths.device)))
            with torch.set_grad_enabled(one.with_gradient), self._logging_a_pass(int(tokens[one.rows].sum())):
                loss = self._loss_of(policy, some)
                if self.loss_type not in _TOKEN_SUMS:
                    loss = loss * (len(one.rows) / len(lengths))
            if one.with_gradient:
                self.accelerator.backward(loss)
            total += loss.detach()
            if one.ends_all_wrong and parts.reads_norm:
                self._note(PREFIX + "grad_norm_all_wrong", gradient_norm(policy.parameters(), processes))
        if parts.ends_step:
            if processes > 1:
                average_gradients(policy.parameters())
            for name, value in metrics_of_step(gather_object(self._passes)).items():
                self._note(name, value)
            self._passes = []
        return total.requires_grad_()

    @contextmanager
    def _logging_a_pass(self, tokens: int) -> Iterator[None]:
        """What the block logs is kept for the step's end, over `tokens` policy tokens of this process."""
        accelerator, metrics = self.accelerator, self._metrics["train"]
        self.accelerator, self._metrics["train"] = AloneAccelerator(accelerator), defaultdict(list)
        try:
            yield
            self._passes.append(metrics_of_pass(self._metrics["train"], tokens))
        finally:
            self.accelerator, self._metrics["train"] = accelerator, metrics

    def _note(self, name: str, value: float) -> None:
        self._metrics["train"][name].append(value)

    def _loss_of(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._scored = inputs["completion_mask"] * inputs["tool_mask"]
        self._updated = inputs
        loss = super()._compute_loss(model, inputs)
        self._updated = None
        return loss

    def _note_update(self, logprobs: torch.Tensor) -> None:
        """Log how far the update's log-probabilities are from those that the tokens were sampled with."""
        if self._updated is None or "sampled_with" not in self._updated or not self.model.training:
            return
        sampled_with = self._updated["sampled_with"]
        # On-policy, TRL takes the log-probabilities of this very pass for the sampler's: here is how far they differ.
        if "old_per_token_logps" not in self._updated:
            gaps = (logprobs.detach() - sampled_with).abs() * self._scored
            total, tokens = self.accelerator.reduce(torch.stack([gaps.sum(), self._scored.sum()]), "sum")
            self._note(PREFIX + GAP, (total / tokens.clamp(min=1)).item())
        if self._log_ratios is not None:
            self._log_ratios.note(self._updated["row"], logprobs, sampled_with, self._scored)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's; after the last micro-batch of an optimizer step its token ratios are written."""
        loss = super().training_step(*args, **kwargs)
        if self._log_ratios is not None and self.accelerator.sync_gradients:
            everyone = gather_object(self._log_ratios.rows)
            if self.accelerator.is_main_process:
                self._log_ratios.write(everyone)
        return loss

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **others: Any,
    ) -> tuple[torch.Tensor, Any, Any]:
        """TRL's (trajectories, completion tokens), computed at the policy's tokens only, zero elsewhere.

        Left to TRL where it already skips the rest (Triton), or where the output layer is not at hand.
        """
        on_hand = not (self.is_fsdp_enabled or self.is_deepspeed_enabled or compute_aux_loss)
        if on_hand and input_ids.device.type == "cpu":
            scores = self._score_policy_tokens(model, input_ids, attention_mask, self._scored)
            if scores is not None:
                self._note_update(scores[0])
                return scores[0], scores[1] if compute_entropy else None, None
        theirs = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **others
        )
        self._note_update(theirs[0])
        return theirs

    def _score_policy_tokens(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, scored: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Log-probabilities and entropies where `scored`; None where the output layer is not all there is."""
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        scored = scored.bool()
        prompt = input_ids.shape[1] - scored.shape[1]
        whole = torch.nn.functional.pad(scored, (prompt, 0))
        passes = forward_passes(attention_mask.sum(1), pass_tokens(input_ids.device))
        parts = []
        for rows in passes:
            ids, wanted = flush_left(input_ids[rows], whole[rows], attention_mask[rows])
            with self.accelerator.autocast():
                output = model(input_ids=ids, logits_to_keep=1, output_hidden_states=True, use_cache=False)
                states = output.hidden_states[-1]
                if not explains_logits(head, states[:, -1], output.logits[:, -1]):
                    return None
                before = states[:, :-1][wanted[:, 1:]]
                labels = ids[:, 1:][wanted[:, 1:]]
                parts.append(score_tokens(before, head, labels, self.temperature))
        order = torch.cat(passes)
        place = order.argsort()
        logprobs, entropies = (
            torch.zeros(scored.shape).masked_scatter(scored[order], torch.cat(values))[place]
            for values in zip(*parts, strict=True)
        )
        return logprobs, entropies
