import asyncio
import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.sampling_model import sampling_model
from tspo.rollout.transformers_sampler import TransformersSampler

PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def codec(tiny_tokenizer):
    return Codec(tiny_tokenizer)


@pytest.fixture
def model(tiny_model):
    return copy.deepcopy(tiny_model)


def sampled(model, codec, dtype=None):
    sampler = TransformersSampler(model, codec, rows=2, capacity=60, dtype=dtype)

    async def turns():
        async with sampler.session("seed") as session:
            return await session.sample(PROMPT, 12), await session.sample([10, 11], 12)

    return asyncio.run(turns())


def test_it_has_the_parameters_of_the_model(model):
    twin = sampling_model(model, None)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in twin.named_parameters()] == names
    assert all(twin.get_parameter(name) is model.get_parameter(name) for name in names)
    assert twin.lm_head.weight is model.model.embed_tokens.weight


def test_the_model_stays_as_it_is(model, codec):
    ids = torch.tensor([PROMPT])
    model.train()
    before, settings = model(ids), model.config.to_dict()
    modules = [type(module) for module in model.modules()]
    sampled(model, codec)
    assert torch.equal(model(ids).logits, before.logits)
    assert model.config.to_dict() == settings
    assert model.config._attn_implementation == "sdpa"
    assert [type(module) for module in model.modules()] == modules
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2", "flex_attention"])
def test_how_the_model_attends_elsewhere_does_not_matter(model, codec, attention):
    expected = sampled(model, codec)
    model.config._attn_implementation = attention
    said = sampled(model, codec)
    assert model.config._attn_implementation == attention
    assert said == expected


class OwnAttention(transformers.LlamaForCausalLM):
    """A class whose logits depend on how many tokens are computed at once."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + output.logits.shape[1]
        return output


def test_a_model_that_is_not_sampled_as_it_is_is_bad_input(tiny_model, codec):
    model = OwnAttention._from_config(copy.deepcopy(tiny_model.config))
    with pytest.raises(BadInput, match="does not get the logits of this llama right") as error:
        TransformersSampler(model, codec, rows=1, capacity=60)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_precision_is_its_own_inside_autocast(model, codec, dtype):
    expected = sampled(model, codec, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        said = sampled(model, codec, dtype)
    assert said == expected
    assert all(len(turn.token_ids) == len(turn.logprobs) for turn in said)


def test_there_is_no_dropout(model, codec):
    expected = sampled(model, codec)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.9
    model.train()
    assert sampled(model, codec) == expected
    assert model.training


def test_adapters_are_sampled_with_as_they_are_now(model, codec):
    peft = pytest.importorskip("peft")
    plain = sampled(model, codec)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    sampler = TransformersSampler(adapted, codec, rows=1, capacity=60)

    async def turn():
        async with sampler.session("seed") as session:
            return await session.sample(PROMPT, 12)

    untrained = asyncio.run(turn())
    assert untrained.token_ids == plain[0].token_ids
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(0)))
    sampler.refresh()
    said = asyncio.run(turn())
    ids = torch.tensor([[*PROMPT, *said.token_ids]])
    with torch.no_grad():
        logprobs = adapted(input_ids=ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(1, ids[0, len(PROMPT) :, None])[:, 0]
    assert said.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
    assert said.logprobs != pytest.approx(untrained.logprobs, abs=1e-2)
