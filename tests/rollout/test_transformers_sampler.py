import asyncio
import copy
import gc
import math
import random
from collections import Counter

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from tspo.rollout import kv_cache, transformers_sampler
from tspo.rollout.codec import Codec
from tspo.rollout.row_kernels import row_kernels
from tspo.rollout.sampler import GREEDY, SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler

CAPACITY = 160
# (length of the prompt, tokens of turn 1, length of the feedback, tokens of turn 2); each pair shares its prompt
EPISODES = [(9, 3, 5, 20), (9, 17, 1, 4), (40, 1, 30, 9), (40, 30, 12, 1), (3, 8, 2, 8), (3, 8, 20, 11), (25, 5, 7, 2)]


@pytest.fixture(scope="session")
def codec(tiny_tokenizer):
    return Codec(tiny_tokenizer)


def run(coroutine):
    """The result, or TimeoutError where nobody wakes the waiting."""

    async def bounded():
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


def tokens(seed, count):
    """Random token ids without special tokens."""
    return random.Random(seed).choices(range(3, 400), k=count)


async def two_turns(sampler, number, seed=None):
    prompt_length, first_max, feedback_length, second_max = EPISODES[number]
    prompt, feedback = tokens(f"prompt {number // 2}", prompt_length), tokens(f"feedback {number}", feedback_length)
    async with sampler.session(seed or f"seed {number}") as session:
        first = await session.sample(prompt, first_max)
        second = await session.sample(feedback, second_max)
    return prompt, first, feedback, second


async def all_episodes(sampler, seed=None):
    return await asyncio.gather(*(two_turns(sampler, i, seed and f"{seed} {i}") for i in range(len(EPISODES))))


def logprobs_of(model, prefix, sampled, temperature=1.0):
    """(tokens, vocabulary): what one plain pass over the whole sequence says before each sampled token."""
    ids = torch.tensor([[*prefix, *sampled]], device=model.device)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0].float()
    return (logits[len(prefix) - 1 : -1] / temperature).log_softmax(-1)


def assert_as_sampled(model, prefix, sampled, temperature):
    expected = logprobs_of(model, prefix, sampled.token_ids, temperature or 1.0)
    chosen = expected.gather(1, torch.tensor(sampled.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sampled.logprobs), chosen, atol=1e-4, rtol=0)
    if temperature == 0:
        # the best token, or one that ties with it to rounding
        assert torch.all(chosen >= expected.max(-1).values - 1e-4)


def assert_two_turns_as_sampled(model, episode, temperature):
    prompt, first, feedback, second = episode
    assert_as_sampled(model, prompt, first, temperature)
    assert_as_sampled(model, [*prompt, *first.token_ids, *feedback], second, temperature)


@pytest.fixture(params=["kernels", "plain operations"])
def attention(request, monkeypatch):
    """With the compiled kernels, and without."""
    if request.param == "plain operations":
        monkeypatch.setattr(kv_cache, "kernels_for", lambda keys, values: None)
    elif row_kernels(torch.float32) is None:
        pytest.skip("no C++ compiler with OpenMP")


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_sampling_equals_a_plain_forward_pass(tiny_model, codec, rows, temperature):
    sampler = TransformersSampler(
        tiny_model, codec, rows=rows, capacity=CAPACITY, sampling=SamplingOptions(temperature)
    )
    episodes = run(all_episodes(sampler))
    for number, episode in enumerate(episodes):
        assert_two_turns_as_sampled(tiny_model, episode, temperature)
        for sampled, most in zip(episode[1::2], EPISODES[number][1::2], strict=True):
            assert len(sampled.token_ids) == len(sampled.logprobs) <= most
            assert sampled.finish != "length" or len(sampled.token_ids) == most
            assert sampled.text == codec.decode(sampled.token_ids)


@pytest.mark.usefixtures("attention")
def test_prompts_of_one_group_and_small_prefills(tiny_model, codec, monkeypatch):
    monkeypatch.setattr(transformers_sampler, "_PASS_TOKENS", 32)
    sampler = TransformersSampler(tiny_model, codec, rows=20, capacity=CAPACITY)
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(tiny_model, episode, 1.0)


def test_a_seed_decides_the_tokens_whatever_runs_beside_it(tiny_model, codec):
    sampled = []
    for rows in (1, 2, 20):
        sampler = TransformersSampler(tiny_model, codec, rows=rows, capacity=CAPACITY)
        sampled.append([(e[1].token_ids, e[3].token_ids) for e in run(all_episodes(sampler, "a"))])
        again = run(two_turns(sampler, 3, "a 3"))
        sampled[-1].append((again[1].token_ids, again[3].token_ids))
    assert sampled[0] == sampled[1] == sampled[2]
    assert sampled[0][-1] == sampled[0][3]
    other = run(all_episodes(TransformersSampler(tiny_model, codec, rows=20, capacity=CAPACITY), "b"))
    differ = [a != (e[1].token_ids, e[3].token_ids) for a, e in zip(sampled[0], other, strict=False)]
    assert differ == [True] * len(EPISODES)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(1.0),
        SamplingOptions(0.7),
        SamplingOptions(1.3, top_k=30),
        SamplingOptions(top_p=0.8),
        SamplingOptions(min_p=0.1),
        SamplingOptions(0.9, top_k=60, top_p=0.9, min_p=0.05),
    ],
)
def test_frequencies_and_log_probabilities_follow_the_distribution(tiny_model, codec, options):
    draws = 4000
    sampler = TransformersSampler(tiny_model, codec, rows=500, capacity=8, sampling=options)
    prompt = tokens("prompt", 5)

    async def draw(seed):
        async with sampler.session(str(seed)) as session:
            sampled = await session.sample(prompt, 1)
            return sampled.token_ids[0], sampled.logprobs[0]

    async def draw_all():
        return await asyncio.gather(*(draw(seed) for seed in range(draws)))

    drawn = run(draw_all())
    counts = Counter(token for token, _ in drawn)
    probabilities = transformers_warped(logprobs_of(tiny_model, prompt, [0]), options)[0].tolist()
    for token, logprob in drawn:
        assert math.exp(logprob) == pytest.approx(probabilities[token], rel=1e-3)
    # bins of about 1/20 each, likely tokens first
    bins, expected, observed = [], 0.0, 0
    for token in sorted(range(400), key=lambda token: -probabilities[token]):
        expected += probabilities[token]
        observed += counts[token]
        if expected >= 1 / 20:
            bins.append((expected * draws, observed))
            expected, observed = 0.0, 0
    bins.append((expected * draws + 1e-9, observed))
    assert len(bins) >= 10
    chi_square = sum((o - e) ** 2 / e for e, o in bins)
    assert chi_square < 55  # 20 degrees of freedom: once in 40,000 for a right sampler


def transformers_warped(logits, options):
    """The distribution that transformers samples from."""
    warpers = [transformers.TemperatureLogitsWarper(options.temperature)]
    warpers += [transformers.TopKLogitsWarper(options.top_k)] if options.top_k else []
    warpers += [transformers.TopPLogitsWarper(options.top_p)] if options.top_p < 1 else []
    warpers += [transformers.MinPLogitsWarper(options.min_p)] if options.min_p else []
    for warper in warpers:
        logits = warper(None, logits)
    return logits.softmax(-1)


@pytest.fixture(autouse=True)
def scripts_are_believed(monkeypatch):
    """A script says what it says, whatever it is asked."""
    check = transformers_sampler.check_sampling_model

    def check_others(model):
        if not any(isinstance(module, Script) for module in model.modules()):
            check(model)

    monkeypatch.setattr(transformers_sampler, "check_sampling_model", check_others)


class Script(torch.nn.Module):
    """An output layer that makes one token after the other certain; an exception in the script is raised."""

    def __init__(self, script):
        super().__init__()
        self.script = list(script)

    def __deepcopy__(self, memo):
        return self  # the sampler's modules are copies

    def forward(self, hidden):
        token = self.script.pop(0)
        if isinstance(token, Exception):
            raise token
        logits = torch.full((*hidden.shape[:-1], 400), -100.0)
        logits[..., token] = 100.0
        return logits


def scripted(model, script):
    model = copy.deepcopy(model)
    model.lm_head = Script(script)
    return model


async def one_turn(sampler, max_tokens, seed="seed"):
    async with sampler.session(seed) as session:
        return await session.sample([5, 6, 7], max_tokens)


@pytest.mark.parametrize(
    ("written", "more", "max_tokens", "finish"),
    [
        ("<think>a > b</think><search>x</search>", "", 100, "stop"),
        ("<answer>Rome</answer>", " and more", 100, "stop"),
        ("hm<|im_end|>", "more", 100, "end"),
        ("<search>x</information></think>", "more", None, "length"),
        ("a long thought", " goes on", None, "length"),
        ("<search>x</search>", "", None, "stop"),
        ("hm<|im_end|>", "", None, "end"),
        ("<|im_start|>user <|endoftext|>", "more", None, "length"),
        (" </search>", "", 100, "stop"),
    ],
)
def test_where_a_turn_ends(tiny_model, codec, written, more, max_tokens, finish):
    ids = codec.policy(written)
    model = scripted(tiny_model, ids + codec.policy(more) + [5] * 200)
    sampler = TransformersSampler(model, codec, rows=1, capacity=300)
    sampled = run(one_turn(sampler, max_tokens or len(ids)))
    assert (sampled.token_ids, sampled.text, sampled.finish) == (ids, written, finish)
    assert sampled.logprobs == [0.0] * len(ids)


def test_a_turn_starts_afresh_after_a_closing_tag(tiny_model, codec):
    ids = codec.policy("<search>x</search>")
    sampler = TransformersSampler(scripted(tiny_model, ids + [5] * 9), codec, rows=1, capacity=300)

    async def turns():
        async with sampler.session("seed") as session:
            return await session.sample([5, 6], 50), await session.sample([7, 8], 9)

    first, second = run(turns())
    assert (first.token_ids, first.finish) == (ids, "stop")
    assert (second.token_ids, second.finish) == ([5] * 9, "length")


def change_weights(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def test_refresh_takes_over_changed_weights(tiny_model, codec):
    source = copy.deepcopy(tiny_model)
    sampler = TransformersSampler(source, codec, rows=3, capacity=CAPACITY, sampling=GREEDY, dtype=torch.float64)
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(tiny_model, episode, 0)
    change_weights(source)
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(tiny_model, episode, 0)
    sampler.refresh()
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(source, episode, 0)


def test_without_a_copy_changed_weights_are_seen_at_once(tiny_model, codec):
    source = copy.deepcopy(tiny_model)
    sampler = TransformersSampler(source, codec, rows=3, capacity=CAPACITY, sampling=GREEDY, dtype=torch.float32)
    change_weights(source)
    sampler.refresh()
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(source, episode, 0)


def test_a_copy_in_bfloat16(tiny_model, codec):
    source = copy.deepcopy(tiny_model).train()
    sampler = TransformersSampler(source, codec, rows=3, capacity=CAPACITY, sampling=GREEDY, dtype=torch.bfloat16)

    def broken(*args, **kwargs):
        raise AssertionError("the copy called the original")

    copied = sampler._model
    assert {parameter.dtype for parameter in copied.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in copied.buffers()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert {parameter.dtype for parameter in source.parameters()} == {torch.float32}
    assert source.training
    # trainers patch `forward` on the instance
    patched = copy.deepcopy(tiny_model)
    patched.forward = broken
    sampler = TransformersSampler(patched, codec, rows=3, capacity=CAPACITY, sampling=GREEDY, dtype=torch.bfloat16)
    for prompt, first, _, _ in run(all_episodes(sampler)):
        expected = logprobs_of(tiny_model, prompt, first.token_ids)
        chosen = expected.gather(1, torch.tensor(first.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(first.logprobs), chosen, atol=0.1, rtol=0)


def test_an_exception_in_the_model_reaches_every_episode(tiny_model, codec, caplog):
    error = RuntimeError("out of memory")
    model = scripted(tiny_model, [5, 5, error, *[6] * 100])
    sampler = TransformersSampler(model, codec, rows=4, capacity=50)

    async def all_turns():
        return await asyncio.gather(*(one_turn(sampler, 9, str(i)) for i in range(3)), return_exceptions=True)

    assert run(all_turns()) == [error] * 3
    # the sampler goes on, and nothing is left to complain about at the end
    assert [sampled.token_ids for sampled in run(all_turns())] == [[6] * 9] * 3
    sampler = None
    gc.collect()
    assert caplog.records == []


@pytest.mark.usefixtures("attention")
def test_a_cancelled_episode_does_not_harm_the_others(tiny_model, codec, caplog):
    sampler = TransformersSampler(tiny_model, codec, rows=20, capacity=CAPACITY, sampling=GREEDY)

    async def cancel_some():
        tasks = [asyncio.create_task(two_turns(sampler, i)) for i in range(len(EPISODES))]
        for victim in (0, 3):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[victim].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [i for i, result in enumerate(results) if isinstance(result, asyncio.CancelledError)] == [0, 3]
        return [results[i] for i in (1, 2, 4, 5, 6)]

    for episode in run(cancel_some()):
        assert_two_turns_as_sampled(tiny_model, episode, 0)
    gc.collect()
    assert caplog.records == []


def test_a_turn_cancelled_while_its_last_token_is_sampled(tiny_model, codec):
    sampler = TransformersSampler(tiny_model, codec, rows=4, capacity=50, sampling=GREEDY)

    async def cancel_in_step():
        victim = asyncio.create_task(one_turn(sampler, 1, "victim"))
        other = asyncio.create_task(one_turn(sampler, 5, "other"))
        await asyncio.sleep(0)  # both have asked; the engine has not run
        victim.cancel()
        return await asyncio.gather(victim, other, return_exceptions=True)

    cancelled, sampled = run(cancel_in_step())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert len(sampled.token_ids) == 5


@pytest.mark.usefixtures("attention")
def test_a_slow_search_does_not_stop_the_others(tiny_model, codec):
    sampler = TransformersSampler(tiny_model, codec, rows=8, capacity=CAPACITY, sampling=GREEDY)

    async def episodes():
        searched = asyncio.Event()
        prompt, feedback = tokens("prompt", 11), tokens("feedback", 6)

        async def waits():
            async with sampler.session("waits") as session:
                first = await session.sample(prompt, 4)
                await searched.wait()
                return prompt, first, feedback, await session.sample(feedback, 15)

        waiting = asyncio.create_task(waits())
        others = await all_episodes(sampler)
        assert not waiting.done()
        searched.set()
        return [*others, await waiting]

    for episode in run(episodes()):
        assert_two_turns_as_sampled(tiny_model, episode, 0)


def test_no_more_sessions_than_rows_however_late_they_come(tiny_model, codec):
    sampler = TransformersSampler(tiny_model, codec, rows=1, capacity=50)
    inside, peak = 0, 0

    async def use(seed):
        nonlocal inside, peak
        async with sampler.session(seed) as session:
            inside += 1
            peak = max(peak, inside)
            await session.sample([5, 6, 7], 5)
            inside -= 1

    async def late():
        first, second = asyncio.create_task(use("first")), asyncio.create_task(use("second"))
        await first
        await asyncio.gather(second, use("third"))

    run(late())
    run(late())
    assert peak == 1


@pytest.mark.parametrize("max_tokens", [48, 0, -1])
def test_a_turn_that_does_not_fit_is_refused(tiny_model, codec, max_tokens):
    sampler = TransformersSampler(tiny_model, codec, rows=1, capacity=50)
    with pytest.raises(ValueError, match="do not fit in 50"):
        run(one_turn(sampler, max_tokens))
    assert 1 <= len(run(one_turn(sampler, 47)).token_ids) <= 47


def small(kind, **settings):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("Qwen2", {}), ("Mistral", {"sliding_window": CAPACITY}), ("Mistral", {"sliding_window": None})],
)
def test_a_window_that_holds_everything_is_full_attention(codec, kind, settings):
    model = small(kind, **settings)
    sampler = TransformersSampler(model, codec, rows=3, capacity=CAPACITY, sampling=GREEDY)
    for episode in run(all_episodes(sampler)):
        assert_two_turns_as_sampled(model, episode, 0)


@pytest.mark.usefixtures("attention")
def test_a_row_of_a_block_that_no_pass_has_reached_can_move(tiny_model, codec, monkeypatch):
    """Prompts of one pass each: the first episodes are over before the last rows, in another block, are read."""
    monkeypatch.setattr(transformers_sampler, "_PASS_TOKENS", 8)
    sampler = TransformersSampler(tiny_model, codec, rows=20, capacity=CAPACITY, sampling=GREEDY)
    prompts = [tokens(f"prompt {i}", 5 + i) for i in range(20)]

    async def one(prompt):
        async with sampler.session("seed") as session:
            return await session.sample(prompt, 1)

    async def every():
        return await asyncio.gather(*map(one, prompts))

    for prompt, sampled in zip(prompts, run(every()), strict=True):
        assert_as_sampled(tiny_model, prompt, sampled, 0)


def test_a_pass_that_fails_for_a_new_block_is_what_every_episode_raises(tiny_model, codec, monkeypatch):
    monkeypatch.setattr(transformers_sampler, "_PASS_TOKENS", 90)
    error = RuntimeError("out of memory")
    model = scripted(tiny_model, [5, error, *[6] * 100])
    sampler = TransformersSampler(model, codec, rows=20, capacity=50)
    prompts = [tokens(f"prompt {i}", 5) for i in range(20)]

    async def one(prompt):
        async with sampler.session("seed") as session:
            return await session.sample(prompt, 9)

    async def every():
        return await asyncio.gather(*map(one, prompts), return_exceptions=True)

    assert run(every()) == [error] * 20
    assert [sampled.token_ids for sampled in run(every())] == [[6] * 9] * 20


def test_a_turn_is_streamed_token_by_token_and_is_the_same_turn(taught):
    seen = []

    async def stream():
        sampler = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
        async with sampler.session("seed") as session:
            first = await session.stream(taught.prompt("seventh"), 40, lambda ids: seen.append(list(ids)))
            return first, await session.sample(taught.feedback(), 40)

    reference = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
    streamed = run(stream())
    assert streamed == run(taught.two_turns(reference))
    assert seen == [streamed[0].token_ids[:count] for count in range(1, len(streamed[0].token_ids) + 1)]


def test_an_episode_that_is_cut_off_leaves_a_sampler_that_goes_on(taught):
    sampler = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)

    def interrupt(ids):
        if len(ids) == 3:
            raise KeyboardInterrupt

    async def stream():
        async with sampler.session("seed") as session:
            await session.stream(taught.prompt("seventh"), 40, interrupt)

    with pytest.raises(KeyboardInterrupt):
        run(stream())
    reference = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
    assert run(taught.two_turns(sampler)) == run(taught.two_turns(reference))
