"""A policy made ready to learn: on its device, with adapters, a reference, an optimizer and a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import DistributedType, fsdp2_prepare_model
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, get_scheduler

from tspo.rollout.models import load_model
from tspo.training.batch import Batch
from tspo.training.update import Learner, packed_attention
from tspo.training.update.layout import pack_if_possible
from tspo.training.update.passes import pass_tokens
from tspo.training.update.scoring import Scorer, evaluating, scorer_of
from tspo.training.whole_policy import check_distribution, is_sharded


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """How a policy learns; counts are of this process, `steps` is of optimizer steps."""

    steps: int
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    autocast: torch.dtype | None = None
    max_rows: int = 4
    max_tokens: int | None = None
    checkpointing: bool = False
    packed: bool | None = None
    """Passes without padding; by default on a GPU in half precision, where torch has an attention for them."""
    compile: bool = False
    """Compile each layer, when its shapes are first met."""
    with_reference: bool = False
    """Whether there is a KL term, whose reference is then given, or the policy without its adapters."""


def make_learner(
    policy: Any, settings: LearnerSettings, accelerator: Accelerator, reference: PreTrainedModel | None = None
) -> Learner:
    """The learner of `policy`, a model of transformers or PEFT, which goes to the accelerator's device.

    The `reference` of a KL term is another model, or where the policy has adapters the policy without them.
    """
    check_distribution(accelerator)
    spread = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    policy = policy.to(accelerator.device).train()
    if settings.checkpointing:
        # transformers 5.24 has the second, and 6 will have no other
        enable = getattr(policy, "activation_checkpointing_enable", policy.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    half = settings.autocast is not None or policy.dtype != torch.float32
    pack = accelerator.device.type == "cuda" and half if settings.packed is None else settings.packed
    with evaluating(policy):  # with dropout a policy would not look like itself
        packed = pack and not spread and pack_if_possible(policy, settings.autocast)

    def scorer(model: Any, whole: bool) -> Scorer:
        with evaluating(model):
            return scorer_of(
                model, temperature=settings.temperature, autocast=settings.autocast, whole=whole, packed=packed
            )

    if settings.compile:
        decoder = policy.get_decoder()
        for layer in getattr(decoder, "layers", [decoder]):
            layer.compile(dynamic=True)

    score_reference = None
    if settings.with_reference and reference is None:
        score_reference = _without_adapters(policy, scorer(policy, whole=True))
    elif reference is not None:
        frozen = reference.to(accelerator.device).eval().requires_grad_(False)
        if accelerator.is_fsdp2:
            accelerator.state.fsdp_plugin.set_auto_wrap_policy(frozen)
            frozen = fsdp2_prepare_model(accelerator, frozen)
        elif packed:
            frozen.set_attn_implementation(packed_attention.NAME)
        score_reference = scorer(frozen, whole=not accelerator.is_fsdp2)

    optimizer = make_optimizer(policy, settings)
    model: Any = policy
    if spread:
        if isinstance(plugin := accelerator.state.deepspeed_plugin, DeepSpeedPlugin):
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1  # passes differ: tokens are counted, not rows
            plugin.deepspeed_config["gradient_clipping"] = settings.max_grad_norm
        model, optimizer = accelerator.prepare(policy, optimizer)
    return Learner(
        accelerator=accelerator,
        model=model,
        score=scorer(model, whole=not spread),
        reference=score_reference,
        optimizer=optimizer,
        schedule=get_scheduler(settings.schedule, optimizer, settings.warmup_steps, settings.steps),
        max_rows=settings.max_rows,
        max_tokens=settings.max_tokens or pass_tokens(accelerator.device),
        max_grad_norm=settings.max_grad_norm,
        spread=spread,
    )


def make_optimizer(policy: torch.nn.Module, settings: LearnerSettings) -> torch.optim.Optimizer:
    """The optimizer over what learns of `policy`; biases and norms, which are vectors, do not decay."""
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learning if parameter.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in learning if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.learning_rate)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def with_adapters(policy: PreTrainedModel, lora: LoraConfig, base_dtype: torch.dtype) -> Any:
    """The policy with its own weights frozen, in `base_dtype`, and adapters in float32 that learn."""
    return get_peft_model(policy.to(base_dtype), lora, autocast_adapter_dtype=True)


def load_weights(policy: Any, checkpoint: Path) -> None:
    """Give the policy the weights of a checkpoint, its adapters' where it has some; the policy is whole here."""
    if isinstance(policy, PeftModel):
        set_peft_model_state_dict(policy, load_file(checkpoint / "adapter_model.safetensors"))
    else:
        policy.load_state_dict(load_model(str(checkpoint)).state_dict())


def save_weights(model: Any, folder: Path, tokenizer: Any, accelerator: Accelerator) -> None:
    """Save a policy, or its adapters alone, and its tokenizer; all processes must call it, and one writes."""
    # Parameters that are spread over processes are gathered by all of them.
    weights = accelerator.get_state_dict(model) if is_sharded(accelerator) else None
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


def save_model(model: Any, folder: Path, tokenizer: Any, accelerator: Accelerator) -> None:
    """Save a policy with its adapters merged, after which it can learn no more; as `save_weights` otherwise."""
    merged = model.merge_and_unload() if isinstance(model, PeftModel) else model
    save_weights(merged, folder, tokenizer, accelerator)


def _without_adapters(policy: Any, score: Scorer) -> Scorer:
    """What the policy was before its adapters learned anything."""

    def reference(batch: Batch) -> torch.Tensor:
        with policy.disable_adapter(), evaluating(policy):
            return score(batch)

    return reference
