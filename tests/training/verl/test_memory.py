from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("transformers")

from tspo.config import RunConfig
from tspo.training.verl.memory import Shape, estimate_memory, shape_of

QWEN_3B = Shape(parameters=3_085_938_688, layers=36, hidden=2048, vocabulary=151_936, key_value_size=512)


def config(**settings: Any) -> RunConfig:
    return RunConfig.model_validate({"model": "m", "data": {"world": {}}} | settings)


def test_states_are_shared_by_all_gpus() -> None:
    one = estimate_memory(config(verl={"gpus_per_node": 1}), QWEN_3B, 80)
    many = estimate_memory(config(verl={"gpus_per_node": 8, "nodes": 2}), QWEN_3B, 80)
    assert one.states == pytest.approx(16 * 3.085938688)
    assert many.states == pytest.approx(one.states / 16)
    assert one.passes == many.passes


def test_a_critic_has_states_of_its_own() -> None:
    policy = estimate_memory(config(), QWEN_3B, 80)
    both = estimate_memory(config(credit={"algorithm": "ppo"}), QWEN_3B, 80)
    assert both.states == pytest.approx(2 * policy.states)
    assert both.passes == policy.passes


def test_passes_grow_with_their_tokens() -> None:
    few, many = (
        estimate_memory(config(verl={"tokens_per_gpu": tokens}), replace(QWEN_3B, parameters=0), 80).passes
        for tokens in (1000, 4000)
    )
    assert many == pytest.approx(4 * few)


def test_without_checkpoints_all_layers_keep_what_is_inside_them() -> None:
    few = config(verl={"tokens_per_gpu": 1000}, training={"gradient_checkpointing": False})
    logits, gathered = 1000 * 151_936 * 8, 2 * 2 * QWEN_3B.parameters / 36
    assert estimate_memory(few, QWEN_3B, 80).passes == pytest.approx(
        (1000 * 2048 * 36 * 16 * 2 + logits + gathered) / 1e9
    )


def test_adapters_leave_no_moments_and_offloading_no_states() -> None:
    whole = estimate_memory(config(), QWEN_3B, 80)
    assert estimate_memory(config(training={"lora": {}}), QWEN_3B, 80).states == pytest.approx(whole.states / 4)
    offloaded = estimate_memory(config(verl={"offload": True}), QWEN_3B, 80)
    assert whole.sampling == pytest.approx(40 + whole.states)
    assert offloaded.sampling == pytest.approx(40)
    assert offloaded.training == whole.training


def test_vllm_needs_its_weights_and_one_episode() -> None:
    cache = 4096 * 36 * 512 * 2
    estimate = estimate_memory(config(verl={"tensor_parallel": 2}), QWEN_3B, 80)
    assert estimate.sampling_least == pytest.approx((2 * QWEN_3B.parameters + cache) / 2 / 1e9)


def test_the_shape_is_the_models() -> None:
    from transformers import AutoModelForCausalLM

    from tspo.rollout.models import resolve_model

    model = AutoModelForCausalLM.from_pretrained(resolve_model("tspo:starter"))
    shape = shape_of("tspo:starter")
    assert shape.parameters == model.num_parameters()
    keys = model.model.layers[0].self_attn.k_proj.out_features
    assert shape.key_value_size == 2 * keys
    assert (shape.layers, shape.vocabulary) == (len(model.model.layers), model.lm_head.out_features)
