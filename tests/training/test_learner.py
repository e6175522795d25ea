from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from tspo.training.learner import (
    LearnerSettings,
    load_weights,
    make_optimizer,
    save_model,
    save_weights,
)
from tspo.training.objective import Objective
from tspo.training.update import score_batch, update_policy


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None]).logits


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD), ("adafactor", torch.optim.Adafactor)]
)
def test_optimizers_by_name_and_vectors_do_not_decay(tiny_model: Any, name: str, kind: type) -> None:
    settings = LearnerSettings(steps=1, learning_rate=0.5, optimizer=name, weight_decay=0.1, betas=(0.8, 0.9))
    optimizer = make_optimizer(tiny_model, settings)
    assert type(optimizer) is kind
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(p): 0.0 if "norm" in parameter else 0.1 for parameter, p in tiny_model.named_parameters()}
    assert decay == expected
    if name == "adamw":
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_adapters_alone_are_optimized(with_lora: Callable[..., Any]) -> None:
    policy = with_lora()
    optimizer = make_optimizer(policy, LearnerSettings(steps=1, learning_rate=0.5))
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert learning == {id(p) for name, p in policy.named_parameters() if "lora" in name}


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        ("constant", 0, [1.0, 1.0, 1.0, 1.0]),
        ("constant_with_warmup", 2, [0.0, 0.5, 1.0, 1.0]),
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("cosine", 2, [0.0, 0.5, 1.0, 0.5]),
    ],
)
def test_schedules_by_name(new_learner, schedule: str, warmup: int, rates: list[float]) -> None:
    learner = new_learner(learning_rate=1.0, steps=4, schedule=schedule, warmup_steps=warmup)
    found = []
    for _ in range(4):
        found.append(learner.schedule.get_last_lr()[0])
        learner.optimizer.step()
        learner.schedule.step()
    assert found == pytest.approx(rates)


def test_dropout_hides_nothing_of_what_a_policy_is(new_learner, trajectories, batch_of, tiny_tokenizer) -> None:
    """Two passes with dropout differ, though its logits are its output layer's; and making a learner draws nothing."""
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.5}
    policy = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", vocab_size=len(tiny_tokenizer), **settings))
    random = torch.get_rng_state()
    learner = new_learner(policy)
    assert torch.equal(torch.get_rng_state(), random)
    assert policy.training
    forwards: list[int] = []
    policy.register_forward_hook(lambda *_: forwards.append(1))
    score_batch(learner, batch_of(trajectories), learner.score)
    assert forwards == []


def test_a_reference_is_frozen_and_without_dropout(new_learner, tiny_model) -> None:
    reference = deepcopy(tiny_model).train()
    learner = new_learner(reference=reference)
    assert not reference.training
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert learner.model.training


def test_the_reference_of_adapters_is_the_policy_without_them(
    new_learner, with_lora, tiny_model, trajectories, batch_of, plain_logprobs
) -> None:
    policy = with_lora(dropout=0.5)
    for layer in policy.get_decoder().layers:
        layer.self_attn.attention_dropout = 0.5
    learner = new_learner(policy, with_reference=True)
    batch = batch_of(trajectories)
    with torch.no_grad():
        plain = torch.cat([plain_logprobs(tiny_model, trajectory) for trajectory in trajectories])
    assert torch.allclose(score_batch(learner, batch, learner.reference), plain, atol=1e-5)
    assert not torch.allclose(score_batch(learner, batch, learner.score), plain, atol=1e-2)
    assert learner.model.training
    assert {name for name, p in learner.model.named_parameters() if p.requires_grad} == {
        name for name, _ in learner.model.named_parameters() if "lora" in name
    }


def test_adapters_are_in_float32_over_a_base_in_its_own_precision(with_lora: Callable[..., Any]) -> None:
    dtypes = {("lora" in name, p.dtype) for name, p in with_lora(torch.bfloat16).named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_weights_are_saved_and_taken_over(
    new_learner, tiny_model, tiny_tokenizer, with_lora, another, tmp_path: Path, lora: bool, packed: bool
) -> None:
    policy = with_lora() if lora else another(tiny_model)
    before = logits(policy.eval())
    learner = new_learner(policy, packed=packed)
    save_weights(learner.model, tmp_path, tiny_tokenizer, learner.accelerator)
    fresh = another(with_lora(), learns=True) if lora else deepcopy(tiny_model)
    assert not torch.allclose(logits(fresh), before, atol=1e-2)
    load_weights(fresh, tmp_path)
    assert torch.equal(logits(fresh.eval()), before)
    assert (tmp_path / "tokenizer.json").is_file()
    assert (tmp_path / "model.safetensors").is_file() != lora
    assert not any("packed" in path.read_text() for path in tmp_path.glob("*config.json"))


def test_a_saved_model_has_its_adapters_merged(new_learner, with_lora, tiny_tokenizer, tmp_path: Path) -> None:
    learner = new_learner(with_lora())
    before = logits(learner.model.eval())
    save_model(learner.model, tmp_path, tiny_tokenizer, learner.accelerator)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not isinstance(model, PeftModel)
    assert torch.allclose(logits(model), before, atol=1e-5)


def test_adamw_learns_what_the_objective_says(new_learner, trajectories, batch_of) -> None:
    learner = new_learner(optimizer="adamw", learning_rate=1e-3, max_grad_norm=1.0)
    batch = batch_of(trajectories)
    before = score_batch(learner, batch, learner.score)
    for _ in range(5):
        update_policy(learner, batch, Objective())
    change = score_batch(learner, batch, learner.score) - before
    assert (change * batch.advantages).sum() > 0
