from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tspo.training.update import scoring
from tspo.training.update.layout import pack_if_possible
from tspo.training.update.scoring import scorer_of
from tspo.trajectory import StopReason

TEMPERATURE = 0.7


def small_model(kind: str, vocab_size: int, **fields: Any) -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, num_key_value_heads=1, **shape, **fields)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).float().eval()


@pytest.fixture
def batch(trajectories: Any, batch_of: Callable[..., Any]) -> Any:
    return batch_of(trajectories)


def scorer(model: Any, *, whole: bool = True, packed: bool = False, autocast: torch.dtype | None = None) -> Any:
    return scorer_of(model, temperature=TEMPERATURE, autocast=autocast, whole=whole, packed=packed)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("chunk", [7, 512])
def test_scores_are_those_of_whole_rows(
    tiny_model, trajectories, batch, plain_logprobs, monkeypatch, whole: bool, packed: bool, chunk: int
) -> None:
    monkeypatch.setattr(scoring, "_CHUNK", chunk)
    model = deepcopy(tiny_model)
    assert not packed or pack_if_possible(model, None)
    logprobs = scorer(model, whole=whole, packed=packed)(batch)
    plain = torch.cat([plain_logprobs(tiny_model, trajectory) for trajectory in trajectories])
    torch.testing.assert_close(logprobs, plain, rtol=1e-5, atol=1e-5)
    assert logprobs.requires_grad


def test_the_gradient_depends_neither_on_chunks_nor_on_padding(tiny_model, batch, gradient_of, monkeypatch) -> None:
    found = []
    for chunk, packed in ((512, False), (7, False), (7, True)):
        monkeypatch.setattr(scoring, "_CHUNK", chunk)
        model = deepcopy(tiny_model)
        assert not packed or pack_if_possible(model, None)
        scorer(model, packed=packed)(batch).square().sum().backward()
        found.append(gradient_of(model))
    for gradient in found[1:]:
        assert (gradient - found[0]).norm() / found[0].norm() < 1e-5


def test_the_output_layer_sees_the_loss_tokens_alone_a_chunk_at_a_time(tiny_model, batch, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "_CHUNK", 50)
    model, seen = deepcopy(tiny_model), []
    score = scorer(model)
    model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        score(batch)
    tokens = len(batch.advantages)
    assert seen == [50] * (tokens // 50) + [tokens % 50]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("qwen2", {}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 1.0, "head_dim": 16}),
    ],
)
def test_models_that_scale_or_cap_their_logits_go_through_their_own_forward(
    tiny_tokenizer, trajectories, batch, plain_logprobs, kind: str, fields: dict[str, float]
) -> None:
    model = small_model(kind, len(tiny_tokenizer), **fields)
    forwards: list[int] = []
    with torch.no_grad():
        model.get_output_embeddings().weight *= 20  # so that what is done to the logits shows
        plain = torch.cat([plain_logprobs(model, trajectory) for trajectory in trajectories])
        score = scorer(model)
        model.register_forward_hook(lambda *_: forwards.append(1))
        logprobs = score(batch)
    torch.testing.assert_close(logprobs, plain, rtol=1e-4, atol=1e-4)
    assert len(forwards) == (kind != "qwen2")


def test_scores_are_in_float32_under_autocast(tiny_model, batch) -> None:
    exact = scorer(tiny_model)(batch)
    rounded = scorer(tiny_model, autocast=torch.bfloat16)(batch)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.2


def test_trajectories_outside_the_loss_have_no_scores(tiny_model, trajectories, batch_of) -> None:
    for trajectory in trajectories:
        trajectory.stop_reason = StopReason.RETRIEVER_ERROR
    for whole in (True, False):
        logprobs = scorer(tiny_model, whole=whole)(batch_of(trajectories))
        assert len(logprobs) == 0
