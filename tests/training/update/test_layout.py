from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tspo.training.update import packed_attention
from tspo.training.update.layout import pack_if_possible, packed_sequence, padded_rows
from tspo.training.update.scoring import scorer_of


@pytest.fixture
def batch(trajectories: Any, batch_of: Callable[..., Any]) -> Any:
    return batch_of(trajectories)


def test_padding_is_behind_the_rows(batch) -> None:
    some = batch.take([2, 0])
    inputs, before = padded_rows(some)
    ids = inputs.pop("input_ids")
    short, long = some.lengths.tolist()
    assert not inputs
    assert ids.shape == before.shape == (2, long)
    assert ids[0, :short].tolist() == some.token_ids[:short].tolist()
    assert (ids[0, short:] == 0).all()
    assert not before[0, short - 1 :].any()
    assert before.sum(1).tolist() == some.loss_tokens.tolist()
    assert torch.equal(ids.roll(-1, 1)[before], some.token_ids[some.in_loss])


def test_a_packed_sequence_has_no_padding(batch) -> None:
    some = batch.take([2, 0])
    inputs, before = packed_sequence(some)
    short, long = some.lengths.tolist()
    assert torch.equal(inputs["input_ids"], some.token_ids[None])
    assert inputs["position_ids"].tolist() == [[*range(short), *range(long)]]
    assert inputs["cu_seq_lens_q"].tolist() == [0, short, short + long]
    assert inputs["max_length_q"] == long
    assert torch.equal(some.token_ids[None].roll(-1, 1)[before], some.token_ids[some.in_loss])


@pytest.mark.parametrize(
    ("kind", "fields", "packs"),
    [
        ("qwen2", {}, True),
        ("mistral", {"sliding_window": 3}, True),
        ("gemma2", {"attn_logit_softcapping": 0.01, "head_dim": 16}, False),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, False),  # a convolution runs over the bounds
    ],
)
def test_a_policy_is_packed_where_its_logits_stay_what_they_are(
    tiny_tokenizer, batch, trajectories, plain_logprobs, kind: str, fields: dict[str, Any], packs: bool
) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=len(tiny_tokenizer), num_key_value_heads=1, **shape, **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 5  # so that attention shows
        plain = torch.cat([plain_logprobs(model, trajectory, temperature=1.0) for trajectory in trajectories])
        assert pack_if_possible(model, None) == packs
        assert (model.config._attn_implementation == packed_attention.NAME) == packs
        score = scorer_of(model, temperature=1.0, autocast=None, whole=True, packed=packs)
        torch.testing.assert_close(score(batch), plain, rtol=1e-3, atol=1e-3)
