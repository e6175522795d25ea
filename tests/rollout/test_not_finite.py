import asyncio
import copy

import pytest

pytest.importorskip("torch")

import torch

from tspo.errors import NotFinite
from tspo.rollout.codec import Codec
from tspo.rollout.draw import draw
from tspo.rollout.sampler import SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_weights_broke_is_one_line(tiny_model, tiny_tokenizer, temperature, value):
    model = copy.deepcopy(tiny_model)
    sampler = TransformersSampler(
        model, Codec(tiny_tokenizer), rows=1, capacity=40, sampling=SamplingOptions(temperature)
    )
    with torch.no_grad():
        model.model.norm.weight.fill_(value)

    async def turn():
        async with sampler.session("seed") as session:
            return await session.sample([5, 6, 7], 12)

    with pytest.raises(NotFinite, match=r"its logits are nan or infinite\. Look at its weights") as error:
        asyncio.run(turn())
    assert "\n" not in str(error.value)


def test_tokens_that_cannot_be_are_no_fault():
    probabilities = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0]).softmax(-1)[None]
    assert draw(probabilities, torch.tensor([[0.7]])).tolist() == [[3]]
