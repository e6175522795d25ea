"""Sessions that have read the same share a row of the cache, and are computed once until they differ."""

import asyncio
import copy
import random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.rollout.codec import Codec
from tspo.rollout.sampler import FULL, GREEDY
from tspo.rollout.transformers_sampler import TransformersSampler

CAPACITY = 120
PROMPT = random.Random("prompt").choices(range(3, 400), k=10)


@pytest.fixture(scope="module")
def codec(tiny_tokenizer):
    codec = Codec(tiny_tokenizer)
    codec.eos_token_ids = frozenset()  # turns are as long as they may be
    return codec


@pytest.fixture
def model(tiny_model):
    """A model that counts the tokens it computes."""
    model = copy.deepcopy(tiny_model)
    model.computed = [0]

    def count(_, args, kwargs):
        model.computed[0] += kwargs["input_ids"].shape[1]

    model.register_forward_pre_hook(count, with_kwargs=True)
    return model


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


def assert_as_sampled(model, context, sampled):
    ids = torch.tensor([[*context, *sampled.token_ids]])
    with torch.no_grad():
        logprobs = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(1, ids[0, len(context) :, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sampled.logprobs), chosen, atol=1e-4, rtol=0)


async def turns(sampler, seed, prompt, *searches):
    """The turns of a session: `searches` are (what to wait for, what was found)."""
    async with sampler.session(seed) as session:
        said = [await session.sample(prompt, 6)]
        for waiting, found in searches:
            for _ in range(waiting):
                await asyncio.sleep(0)
            said.append(await session.sample(found, 6))
        return said


async def together(*sessions):
    return await asyncio.gather(*sessions)


def test_a_group_that_samples_the_same_is_computed_once(model, codec):
    sampler = TransformersSampler(model, codec, rows=5, capacity=CAPACITY, sampling=GREEDY)
    model.computed[0] = 0
    alone = run(turns(sampler, "0", PROMPT, (0, [7, 8, 9])))
    once = model.computed[0]
    group = run(together(*(turns(sampler, str(i), PROMPT, (0, [7, 8, 9])) for i in range(5))))
    assert model.computed[0] == 2 * once
    assert group == [alone] * 5


def test_it_parts_where_its_members_differ(model, codec):
    sampler = TransformersSampler(model, codec, rows=8, capacity=CAPACITY)
    model.computed[0] = 0
    group = run(together(*(turns(sampler, str(i), PROMPT, (0, [7, 8, 9])) for i in range(8))))
    computed = model.computed[0]
    read = set()
    for first, second in group:
        whole = [*PROMPT, *first.token_ids, 7, 8, 9, *second.token_ids[:-1]]
        read |= {tuple(whole[: n + 1]) for n in range(len(whole))}
        assert_as_sampled(model, PROMPT, first)
        assert_as_sampled(model, [*PROMPT, *first.token_ids, 7, 8, 9], second)
    assert computed == len(read)
    assert len({tuple(first.token_ids) for first, _ in group}) > 1


def test_other_passages_part_it_too(model, codec):
    sampler = TransformersSampler(model, codec, rows=3, capacity=CAPACITY, sampling=GREEDY)
    found = [[7, 8, 9], [7, 8], [20, 21, 22]]
    group = run(together(*(turns(sampler, "seed", PROMPT, (0, one)) for one in found)))
    for (first, second), one in zip(group, found, strict=True):
        assert first == group[0][0]
        assert_as_sampled(model, [*PROMPT, *first.token_ids, *one], second)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),  # the prompt
            st.integers(0, 2),  # the seed
            st.integers(0, 20),  # how long the search takes
            st.integers(0, 1),  # what it finds
            st.integers(0, 20),
            st.integers(0, 1),
            st.integers(0, 40),  # when the episode is cancelled, from 30 on never
        ),
        min_size=2,
        max_size=9,
    ),
    st.integers(2, 9),
    st.booleans(),
)
def test_whoever_waits_or_goes_each_session_reads_its_own(tiny_model, codec, sessions, rows, greedy):
    sampler = TransformersSampler(tiny_model, codec, rows=rows, capacity=CAPACITY, sampling=GREEDY if greedy else FULL)
    prompts, found = [PROMPT, PROMPT[:7]], [[7, 8, 9], [7, 8, 20, 21]]

    async def one(prompt, seed, *searches, cancelled):
        task = asyncio.create_task(turns(sampler, str(seed), prompts[prompt], *searches))
        for _ in range(cancelled):
            await asyncio.sleep(0)
        if cancelled < 30:
            task.cancel()
        return (await asyncio.gather(task, return_exceptions=True))[0]

    said = run(
        together(
            *(
                one(prompt, seed, (first, found[a]), (second, found[b]), cancelled=cancelled)
                for prompt, seed, first, a, second, b, cancelled in sessions
            )
        )
    )
    for (prompt, _, _, a, _, b, _), episode in zip(sessions, said, strict=True):
        if isinstance(episode, asyncio.CancelledError):
            continue
        context = prompts[prompt]
        for turn, more in zip(episode, (found[a], found[b], []), strict=True):
            assert_as_sampled(tiny_model, context, turn)
            context = [*context, *turn.token_ids, *more]
    assert not sampler._rows
    assert not any(sampler._cache._lengths)
