"""The loss and gradient of an update equal those of TRL's GRPOTrainer on the same trajectories, by its own code."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from tspo.credit import CreditConfig
from tspo.training.batch import Batch
from tspo.training.objective import Objective
from tspo.training.update import score_batch, update_policy, with_other_policies
from tspo.trajectory import Trajectory

LENGTH = 100
EPSILON, HIGH, BETA = 0.2, 0.28, 0.05
CASES = [
    ({"loss_type": "dapo"}, Objective(average="tokens")),
    ({"loss_type": "grpo"}, Objective(average="trajectories")),
    ({"loss_type": "dr_grpo", "max_completion_length": LENGTH}, Objective(average="constant", average_length=LENGTH)),
    # TRL's bound is the weight itself
    ({"loss_type": "cispo", "epsilon_high": 1 + HIGH}, Objective(surrogate="cispo", average="tokens")),
    (
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        Objective(surrogate="gspo", average="trajectories"),
    ),
    ({"loss_type": "dapo", "importance_sampling_level": "sequence"}, Objective(surrogate="gspo", average="tokens")),
]


def padded(batch: Batch, trajectories: Sequence[Trajectory]) -> dict[str, torch.Tensor]:
    """The batch as TRL has it: prompts padded on the left, completions on the right; (trajectories, tokens) each."""
    prompts = [torch.tensor(trajectory.prompt_token_ids) for trajectory in trajectories]
    rows = batch.token_ids.split(batch.lengths.tolist())
    ids = [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    of_loss = [row[-len(own) :] for row, own in zip(batch.in_loss.split(batch.lengths.tolist()), ids, strict=True)]
    right = {
        "completion_ids": pad_sequence(ids, batch_first=True),
        "completion_mask": pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True),
        "tool_mask": pad_sequence([row.float() for row in of_loss], batch_first=True),
    }
    left = {"padding_side": "left", "batch_first": True}
    for name in ("advantages", "old_logprobs", "reference_logprobs"):
        right[name] = torch.zeros(right["completion_ids"].shape)
        right[name][right["tool_mask"].bool()] = getattr(batch, name)
    return {
        "prompt_ids": pad_sequence(prompts, **left),
        "prompt_mask": pad_sequence([torch.ones_like(row) for row in prompts], **left),
        "old_per_token_logps": right.pop("old_logprobs"),
        "ref_per_token_logps": right.pop("reference_logprobs"),
        "num_items_in_batch": batch.in_loss.sum(),
        **right,
    }


@pytest.mark.parametrize(
    ("settings", "objective"),
    CASES,
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value.surrogate,
)
def test_loss_and_gradient_are_equal(
    new_learner,
    tiny_model,
    tiny_model_folder,
    tiny_tokenizer,
    another,
    trajectories,
    batch_of,
    gradient_of,
    tmp_path: Path,
    settings: dict[str, Any],
    objective: Objective,
) -> None:
    learner = new_learner(reference=another(tiny_model))
    # a ratio of the trajectory is one thing with an advantage of the trajectory
    credit = CreditConfig(algorithm="grpo") if objective.surrogate == "gspo" else CreditConfig()
    batch = with_other_policies(learner, batch_of(trajectories, credit), updates=1, beta=BETA)
    generator = torch.Generator().manual_seed(7)
    noise = 0.4 * torch.randn(len(batch.advantages), generator=generator)
    noise += torch.repeat_interleave(0.4 * torch.randn(len(batch), generator=generator), batch.loss_tokens)
    batch = replace(batch, old_logprobs=score_batch(learner, batch, learner.score) + noise)
    objective = replace(objective, epsilon=EPSILON, epsilon_high=HIGH, beta=BETA)

    usual = {"epsilon": EPSILON, "epsilon_high": HIGH, "beta": BETA, "temperature": 0.7}
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32),
        reward_funcs=[lambda prompts, **_: [0.0] * len(prompts)],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            use_bias_correction_kl=False,
            **usual | settings,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["q"]}),
        processing_class=tiny_tokenizer,
    )
    theirs = trainer.compute_loss(trainer.model.eval(), padded(batch, trajectories))
    theirs.backward()
    update = update_policy(learner, batch, objective)

    ours, plain = gradient_of(learner.model), gradient_of(trainer.model)
    assert theirs.item() != 0
    assert abs(update.metrics["loss"] - theirs.item()) < 1e-6
    assert plain.norm() > 0
    assert (ours - plain).norm() / plain.norm() < 1e-5
