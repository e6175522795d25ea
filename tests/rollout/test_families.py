"""The families of models that docs/models.md lists, tiny and with random weights, against transformers' `generate`."""

import asyncio
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.sampler import GREEDY
from tspo.rollout.transformers_sampler import TransformersSampler

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
WINDOW = 8
PATTERN = ["sliding_attention", "full_attention"]

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": None,
}

SAMPLED = {
    "Llama": ("llama", {}),
    "Qwen2, Qwen2.5": ("qwen2", {}),
    "Qwen2 with a window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "Qwen2-MoE": ("qwen2_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "Qwen3": ("qwen3", {}),
    "Qwen3-MoE": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
    "Gemma 2": ("gemma2", {"sliding_window": WINDOW, "layer_types": PATTERN, "attn_logit_softcapping": 2.0}),
    "Gemma 3, text": ("gemma3_text", {"sliding_window": WINDOW, "layer_types": PATTERN}),
    "Gemma 3": ("gemma3", {"sliding_window": WINDOW, "layer_types": PATTERN}),
    "Mistral with a window": ("mistral", {"sliding_window": WINDOW}),
    "Mistral without": ("mistral", {"sliding_window": None}),
    "Mixtral": ("mixtral", {"sliding_window": None, "num_local_experts": 4}),
    "Phi 1 to 2": ("phi", {}),
    "Phi 3, 3.5, 4": ("phi3", {"sliding_window": WINDOW}),
    "SmolLM3": ("smollm3", {}),
    "gpt-oss": (
        "gpt_oss",
        {"sliding_window": WINDOW, "layer_types": PATTERN, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", {"sliding_window": WINDOW, "layer_types": PATTERN}),
    "Granite": ("granite", {"attention_multiplier": 0.3, "logits_scaling": 2.0}),
    "Cohere 2 (Command R7B)": ("cohere2", {"sliding_window": WINDOW, "layer_types": PATTERN}),
    "StarCoder 2": ("starcoder2", {"sliding_window": WINDOW}),
}
REFUSED = {
    "Qwen3.5": ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}),
    "Qwen3-Next": ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}),
    "LFM 2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "Mamba": ("mamba", {}),
}


def tiny(kind, fields, vocab_size):
    shape = SHAPE | {"vocab_size": vocab_size} | fields
    if kind == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision |= {"image_size": 28, "patch_size": 14}
        config = AutoConfig.for_model(kind, text_config=shape, vision_config=vision, mm_tokens_per_image=4)
    else:
        config = AutoConfig.for_model(kind, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        for name, parameter in model.named_parameters():  # so that attention matters, and sinks are there
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model


@pytest.fixture(scope="module")
def codec(tiny_tokenizer):
    return Codec(tiny_tokenizer)


def generated(model, prompt, count):
    """`count` tokens after `prompt`, which transformers finds the likeliest one by one."""
    plain = GenerationConfig(do_sample=False, max_new_tokens=count, min_new_tokens=count, pad_token_id=0)
    with torch.no_grad():
        return model.generate(torch.tensor([prompt]), generation_config=plain)[0, len(prompt) :].tolist()


def compared(model, codec, **settings):
    """How many tokens were the same, of two turns in each of three episodes side by side."""
    sampler = TransformersSampler(model, codec, rows=3, capacity=120, sampling=GREEDY, **settings)
    generator = torch.Generator().manual_seed(0)

    async def episode(number):
        prompt = torch.randint(5, 300, (6 + 7 * number,), generator=generator).tolist()
        count = 0
        async with sampler.session(str(number)) as session:
            context, new = prompt, prompt
            for _ in range(2):
                turn = await session.sample(new, 16)
                assert turn.token_ids == generated(model, context, len(turn.token_ids))
                with torch.no_grad():
                    logits = model(torch.tensor([context + turn.token_ids])).logits[0, len(context) - 1 : -1]
                plain = logits.log_softmax(-1).gather(1, torch.tensor(turn.token_ids)[:, None])[:, 0]
                torch.testing.assert_close(torch.tensor(turn.logprobs), plain, rtol=1e-3, atol=1e-3)
                count += len(turn.token_ids)
                new = [9, 8, 7, 6, 5, 4, 3][: 1 + 3 * number]
                context = context + turn.token_ids + new
        return count

    async def episodes():
        return sum(await asyncio.gather(*(episode(number) for number in range(3))))

    return asyncio.run(episodes())


@pytest.mark.parametrize(
    ("family", "kernels"), [*((family, True) for family in SAMPLED), ("Llama", False), ("Gemma 3", False)]
)
def test_what_is_sampled_greedily_is_what_generate_gives(family, kernels, codec, tiny_tokenizer, monkeypatch) -> None:
    if not kernels:
        monkeypatch.setattr("tspo.rollout.kv_cache.kernels_for", lambda *_: None)
    kind, fields = SAMPLED[family]
    assert compared(tiny(kind, fields, len(tiny_tokenizer)), codec) >= 40


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_sampled_right_is_refused_by_name(family, codec, tiny_tokenizer) -> None:
    kind, fields = REFUSED[family]
    try:
        model = tiny(kind, fields, len(tiny_tokenizer))
    except (ValueError, KeyError):
        pytest.skip(f"this transformers has no {kind}")
    with pytest.raises(
        BadInput, match=r"^model: the transformers sampler .*; choose another model or rollout\.sampler$"
    ):
        TransformersSampler(model, codec, rows=1, capacity=60)


def test_a_window_that_attention_is_not_told_of_is_refused(codec, tiny_tokenizer) -> None:
    model = tiny("llama", {}, len(tiny_tokenizer))
    model.config.sliding_window = WINDOW
    with pytest.raises(BadInput, match="does not get the logits of this llama right"):
        TransformersSampler(model, codec, rows=1, capacity=60)


def test_the_page_lists_these_families() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| `(\w+)` \| (sampled|refused)", PAGE.read_text(), re.M)
    expected = {(name, kind, "sampled") for name, (kind, _) in SAMPLED.items()}
    assert set(rows) == expected | {(name, kind, "refused") for name, (kind, _) in REFUSED.items()}
