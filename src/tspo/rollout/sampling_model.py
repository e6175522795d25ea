"""The model as it is sampled from: weights of the policy, and modules and settings of its own."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel

from tspo.errors import BadInput
from tspo.rollout.fused_norm import fuse_norms
from tspo.rollout.row_attention import NAME


def sampling_model(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """`model` with attention to the rows of a RowCache, for evaluation; `model` itself stays as it is.

    It has the same parameters, whose changes it sees at once, or with a `dtype` other than the model's a copy of them
    in `dtype`. Buffers are copies in the type that they have, for rotary frequencies need float32.
    Raises BadInput for a model whose attention is not plain (transformers' sdpa).
    """
    shared = dtype is None or dtype == model.dtype
    # what the memo names is not copied
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()} if shared else None)
    twin.eval()
    for module in twin.modules():
        # Trainers patch `forward` on the instance; a copied patch would still call the original model.
        module.__dict__.pop("forward", None)
    if not shared:
        twin.requires_grad_(False)
        for parameter in twin.parameters():
            parameter.data = parameter.data.to(dtype)
    try:
        twin.set_attn_implementation("sdpa")
    except (ValueError, ImportError):
        raise BadInput(
            f"model: the transformers sampler needs a model that can attend by sdpa, {model.config.model_type} cannot; "
            "choose another model or rollout.sampler"
        ) from None
    twin.set_attn_implementation(NAME)
    fuse_norms(twin)
    return twin
