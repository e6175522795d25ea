"""The model as it is sampled from: weights of the policy, and modules and settings of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from tspo.errors import BadInput
from tspo.rollout.fused_norm import fuse_norms
from tspo.rollout.kv_cache import Piece, RowCache, cache_argument
from tspo.rollout.row_attention import NAME

_TRIAL = (5, 8, 1)
"""Tokens of the first row, of the second, and of the first once more."""

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def sampling_model(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """`model` with attention to the rows of a RowCache, for evaluation; `model` itself stays as it is.

    It has the same parameters, whose changes it sees at once, or with a `dtype` other than the model's a copy of them
    in `dtype`. Buffers are copies in the type that they have, for rotary frequencies need float32.
    Raises BadInput for a model with layers that are not attention.
    """
    if unknown := set(_layer_types(model)) - _KNOWN_LAYERS:
        raise BadInput(
            f"model: the transformers sampler samples layers that attend to all tokens or to a window of them, this "
            f"{model.config.model_type} has {', '.join(sorted(unknown))}; choose another model or rollout.sampler"
        )
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
    twin.set_attn_implementation(NAME)
    fuse_norms(twin)
    return twin


def check_sampling_model(twin: PreTrainedModel) -> None:
    """Raise BadInput where a few tokens show that the logits over rows are not the model's, or that a window is lost.

    `twin` is what `sampling_model` gave. Models differ in what their attention adds, and in what they tell it.
    """
    _set_plain_attention(twin)
    expected = _plain_logits(twin)
    twin.set_attn_implementation(NAME)
    cache = RowCache(2, sum(_TRIAL))
    try:
        same = _alike(_logits_by_rows(twin, cache), expected)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError):
        same = False  # its attention does not go through transformers' interface, or its cache is one of its own
    if not same or cache.windows != _windows(twin):
        raise BadInput(
            f"model: the transformers sampler does not get the logits of this {twin.config.model_type} right, whose "
            "attention is of another kind than it knows; choose another model or rollout.sampler"
        )


def _layer_types(model: PreTrainedModel) -> list[str]:
    return getattr(model.config.get_text_config(), "layer_types", None) or []


def _windows(model: PreTrainedModel) -> list[int | None]:
    """How many tokens a token sees in each layer, itself among them, by the configuration; None for all."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if types := _layer_types(model):
        return [window if kind == "sliding_attention" else None for kind in types]
    return [window] * config.num_hidden_layers


def _set_plain_attention(model: PreTrainedModel) -> None:
    """Attention as a model's own code has it, for comparison: sdpa leaves caps out in some versions."""
    try:
        model.set_attn_implementation("eager")
    except (ValueError, ImportError):
        model.set_attn_implementation("sdpa")


def _trial(model: PreTrainedModel) -> list[torch.Tensor]:
    """Token ids of the trial's pieces."""
    ids = torch.arange(1, sum(_TRIAL) + 1, device=model.device) % model.get_input_embeddings().num_embeddings
    return list(torch.split(ids, list(_TRIAL)))


@torch.inference_mode()
def _plain_logits(model: Any) -> list[torch.Tensor]:
    """The logits after each piece of the trial, each row computed by itself and from its beginning."""
    first, second, more = _trial(model)
    rows = (first, second, torch.cat([first, more]))
    return [_own_precision(model, input_ids=row[None], use_cache=False).logits[0, -1] for row in rows]


@torch.inference_mode()
def _logits_by_rows(model: Any, cache: RowCache) -> list[torch.Tensor]:
    """The same from two passes over the rows of a cache."""
    first, second, more = _trial(model)
    found: list[torch.Tensor] = []
    for pieces, ids in (
        ([Piece(0, 0, len(first)), Piece(1, 0, len(second))], torch.cat([first, second])),
        ([Piece(0, len(first), len(more))], more),
    ):
        positions = cache.place(pieces, model.device)
        where = {"position_ids": positions, cache_argument(model): cache}
        output = _own_precision(model, input_ids=ids[None], use_cache=True, **where)
        cache.passed()
        ends = torch.tensor([piece.new for piece in pieces]).cumsum(0) - 1
        found += list(output.logits[0, ends])
    return found


def _own_precision(model: Any, **inputs: Any) -> Any:
    with torch.autocast(model.device.type, enabled=False):
        return model(**inputs)


def _alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Whether logits agree to what half precision leaves of them."""
    here, there = torch.stack(found).float(), torch.stack(expected).float()
    return bool((here - there).norm() <= 3e-2 * there.norm())
