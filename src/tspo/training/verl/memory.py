"""How much memory a GPU will need: an estimate from the model's shape and the context length, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import AutoConfig

from tspo.config import RunConfig
from tspo.rollout.models import resolve_model
from tspo.training.machine_floor import num_parameters

_GIGABYTE = 1e9
_TRAINED_BYTES = 16
"""A trained parameter: weight, gradient and AdamW's two moments, float32 each."""
_FROZEN_BYTES = 4
"""A frozen parameter under adapters; verl keeps it in float32."""
_LOGIT_BYTES = 8
"""A logit: float32, and its gradient."""
_INNER_WIDTHS = 16
"""Hidden-sized vectors of a token that are alive inside one layer, from its forward to its backward pass."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides its memory."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    key_value_size: int
    """Numbers that one layer's cache holds for a token."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Gigabytes (1e9 bytes) on one GPU; it is at its fullest in one of two phases."""

    states: float
    """Its share of weights, gradients and moments; they stay while vLLM samples unless they are offloaded."""
    passes: float
    """Activations and logits of `verl.tokens_per_gpu` tokens, and the layers that are gathered for them."""
    sampling_share: float
    """What vLLM takes while it samples."""
    sampling_least: float
    """vLLM's weights and the cache of one episode of full length: `sampling_share` cannot be less."""
    offloaded: bool

    @property
    def training(self) -> float:
        """The phase of updates."""
        return self.states + self.passes

    @property
    def sampling(self) -> float:
        """The phase of rollouts."""
        return self.sampling_share + (0.0 if self.offloaded else self.states)


def shape_of(model: str) -> Shape:
    """The shape of a model, from its configuration alone; raises OSError where there is none."""
    config = AutoConfig.from_pretrained(resolve_model(model), trust_remote_code=False).get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        parameters=num_parameters(model),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        key_value_size=2 * (getattr(config, "num_key_value_heads", None) or heads) * size,
    )


def estimate_memory(config: RunConfig, shape: Shape, gpu_memory: float) -> MemoryEstimate:
    """What a GPU of `gpu_memory` gigabytes is asked for under FSDP, in bfloat16 passes.

    A critic, where one is needed, has states of the policy's size; it passes while the policy does not. The reference
    policy is not in it: verl keeps it in the host's memory.
    """
    verl = config.verl
    processes = verl.nodes * verl.gpus_per_node
    per_parameter = _TRAINED_BYTES if config.training.lora is None else _FROZEN_BYTES
    number_bytes = 2 if config.training.dtype == "bfloat16" else 4
    models = 2 if config.credit.to_config().needs_critic else 1
    kept_widths = shape.layers * _INNER_WIDTHS
    if config.training.gradient_checkpointing is not False:
        kept_widths = shape.layers + _INNER_WIDTHS  # each layer's input, and the inside of the one computed again
    activations = verl.tokens_per_gpu * shape.hidden * kept_widths * number_bytes
    logits = verl.tokens_per_gpu * shape.vocabulary * _LOGIT_BYTES
    gathered = 2 * number_bytes * shape.parameters / shape.layers  # one in use, one on its way
    cache = config.rollout.max_total_tokens * shape.layers * shape.key_value_size * 2
    return MemoryEstimate(
        states=models * per_parameter * shape.parameters / processes / _GIGABYTE,
        passes=(activations + logits + gathered) / _GIGABYTE,
        sampling_share=verl.gpu_memory_utilization * gpu_memory,
        sampling_least=(2 * shape.parameters + cache) / verl.tensor_parallel / _GIGABYTE,
        offloaded=verl.offload,
    )
