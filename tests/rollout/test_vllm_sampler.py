import asyncio
import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("vllm")

import torch

from tspo.errors import BadInput
from tspo.rollout import policy_folder
from tspo.rollout.codec import Codec
from tspo.rollout.openai_sampler import OpenAISampler
from tspo.rollout.sampler import GREEDY, SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.rollout.vllm_sampler import VLLMSampler

pytestmark = pytest.mark.vllm

CAPACITY = 300
TURNS = ["first", "second", "third", "fourth", "fifth", "sixth"]


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, 120)

    return asyncio.run(bounded())


@contextlib.contextmanager
def vllm(policy, codec, **settings):
    sampler = VLLMSampler(policy, codec, **{"rows": 8, "capacity": CAPACITY, "sampling": GREEDY, **settings})
    try:
        yield sampler
    finally:
        sampler.close()


@pytest.fixture(scope="module")
def source(taught):
    """A copy of the taught model that tests may change and change back."""
    return copy.deepcopy(taught.model)


@pytest.fixture(scope="module")
def greedy(taught, source):
    with vllm(source, taught.codec) as sampler:
        yield sampler


@pytest.fixture(scope="module")
def random(taught, tmp_path_factory, tiny_tokenizer, random_llama):
    """A sampler at temperature 0.7 on a random model, which is unsure of every token, and that model."""
    model = random_llama(tiny_tokenizer, heads=2)
    # what the model's files say about sampling must not count
    model.generation_config.update(do_sample=True, top_k=2, top_p=0.1, temperature=0.1, repetition_penalty=3.0)
    model.generation_config.eos_token_id = list(range(3, 200))
    folder = tmp_path_factory.mktemp("random")
    model.save_pretrained(folder)
    with vllm(str(folder), Codec(tiny_tokenizer), sampling=SamplingOptions(0.7)) as sampler:
        yield sampler, model


def reference(model, codec):
    return TransformersSampler(model, codec, rows=8, capacity=CAPACITY, sampling=GREEDY)


def assert_same(mine, theirs):
    assert (mine.token_ids, mine.text, mine.finish) == (theirs.token_ids, theirs.text, theirs.finish)
    assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_two_turns_are_those_of_the_transformers_sampler(taught, greedy):
    expected, said = run(taught.two_turns(reference(taught.model, taught.codec))), run(taught.two_turns(greedy))
    context = taught.prompt("seventh")
    for theirs, mine in zip(expected, said, strict=True):
        assert taught.margin(context, theirs.token_ids) > 1  # no rounding can change a token
        assert_same(mine, theirs)
        context = [*context, *theirs.token_ids, *taught.feedback()]
    assert [turn.text for turn in said] == ["<search>Paris</search>", "<answer>Paris</answer>"]


@pytest.mark.parametrize("word", TURNS)
def test_a_turn_ends_where_every_sampler_ends_it(taught, greedy, word):
    expected, said = run(taught.turn(reference(taught.model, taught.codec), word)), run(taught.turn(greedy, word))
    assert_same(said, expected)


def test_refresh_takes_over_changed_weights(taught, greedy, source):
    before = run(taught.two_turns(greedy))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.05).add_(torch.randn(parameter.shape, generator=torch.manual_seed(0)) * 0.01)
    try:
        assert run(taught.two_turns(greedy)) == before
        greedy.refresh()
        expected, said = run(taught.two_turns(reference(source, taught.codec))), run(taught.two_turns(greedy))
        for theirs, mine, old in zip(expected, said, before, strict=True):
            assert_same(mine, theirs)
            assert mine.logprobs != pytest.approx(old.logprobs, abs=1e-4)
    finally:
        source.load_state_dict(taught.model.state_dict())
        greedy.refresh()
    assert run(taught.two_turns(greedy)) == before


def test_adapters_are_merged_on_the_way(taught, source, greedy):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(source, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.manual_seed(0)) * 0.02)
    greedy._policy = adapted
    try:
        greedy.refresh()
        for mine, theirs in zip(
            run(taught.two_turns(greedy)), run(taught.two_turns(reference(adapted, taught.codec))), strict=True
        ):
            assert_same(mine, theirs)
    finally:
        greedy._policy = adapted.unload()
        greedy.refresh()


async def sample_all(sampler, seeds, prompt, most=12):
    async def one(seed):
        async with sampler.session(seed) as session:
            first = await session.sample(prompt, most)
            return first, await session.sample([7, 8, 9], most)

    return await asyncio.gather(*(one(seed) for seed in seeds))


def test_logprobs_are_of_the_distribution_that_was_sampled_from(random):
    sampler, model = random
    prompt = [1, 20, 30, 40]
    [(first, second)] = run(sample_all(sampler, ["a"], prompt))
    context = prompt
    for turn in (first, second):
        ids = torch.tensor([[*context, *turn.token_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(context) - 1 : -1] / 0.7
        chosen = logits.log_softmax(-1).gather(1, ids[0, len(context) :, None])[:, 0]
        assert turn.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)
        assert len(turn.token_ids) == 12  # a token that only the model's files call an end is none
        context = [*context, *turn.token_ids, 7, 8, 9]


def test_a_seed_decides_the_tokens(random):
    sampler, _ = random
    seeds = [str(number) for number in range(12)]  # more than there is room for

    def tokens(turns):
        return [(first.token_ids, second.token_ids) for first, second in turns]

    once, again = (tokens(run(sample_all(sampler, seeds, [1, 20, 30, 40]))) for _ in range(2))
    assert once == again
    assert tokens(run(sample_all(sampler, ["3"], [1, 20, 30, 40]))) == [once[3]]
    assert len({tuple(first) for first, _ in once}) == 12


def test_frequencies_follow_the_softmax(random):
    sampler, model = random
    prompt, draws = [1, 20, 30, 40], 1000

    async def draw(seed):
        async with sampler.session(str(seed)) as session:
            return (await session.sample(prompt, 1)).token_ids[0]

    async def draw_all():
        return await asyncio.gather(*(draw(seed) for seed in range(draws)))

    with torch.no_grad():
        probabilities = (model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    drawn = run(draw_all())
    likely = set(probabilities.topk(20).indices.tolist())
    expected = float(probabilities.topk(20).values.sum())
    share = sum(token in likely for token in drawn) / draws
    assert abs(share - expected) < 4 * (expected * (1 - expected) / draws) ** 0.5


def test_a_cancelled_episode_does_not_harm_the_others(taught, greedy):
    async def cancel_one():
        victim = asyncio.create_task(taught.two_turns(greedy))
        other = asyncio.create_task(taught.two_turns(greedy))
        await asyncio.sleep(0.01)
        victim.cancel()
        return await asyncio.gather(victim, other, return_exceptions=True)

    cancelled, said = run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert said == run(taught.two_turns(greedy))


def test_a_turn_that_does_not_fit_is_refused(taught, greedy):
    with pytest.raises(ValueError, match="do not fit in 300"):
        run(taught.two_turns(greedy, most=299))


def test_an_engine_that_cannot_start_is_one_clear_line_and_leaves_nothing(taught, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_folder, "_SHARED_MEMORY", tmp_path)
    with pytest.raises(BadInput, match="vllm: the engine did not start") as raised:
        VLLMSampler(taught.model, taught.codec, rows=1, capacity=10_000)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


_DIES = """
import asyncio, os, signal, sys
import psutil
from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.models import load_tokenizer
from tspo.rollout.vllm_sampler import VLLMSampler

async def turn(sampler):
    async with sampler.session("seed") as session:
        return await session.sample([1, 20, 30], 5)

if __name__ == "__main__":
    sampler = VLLMSampler(sys.argv[1], Codec(load_tokenizer(sys.argv[1])), rows=1, capacity=100)
    asyncio.run(turn(sampler))
    signal.signal(signal.SIGINT, lambda *_: None)
    os.killpg(0, signal.SIGINT)  # as Ctrl-C does
    print("after Ctrl-C:", len(asyncio.run(turn(sampler)).token_ids), flush=True)
    children = psutil.Process().children(recursive=True)
    children = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    for child in children:
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()):
            child.kill()
    try:
        asyncio.run(asyncio.wait_for(turn(sampler), 60))
    except BadInput as error:
        print("said:", error, flush=True)
    sampler.close()
    gone, alive = psutil.wait_procs(children, 30)
    print("left:", alive)
"""


def test_an_engine_that_dies_is_one_clear_line_and_ctrl_c_does_not_kill_it(taught, tmp_path):
    folder = taught.save(tmp_path / "model")
    script = tmp_path / "dies.py"
    script.write_text(_DIES)
    done = subprocess.run(
        [sys.executable, script, folder], stdout=subprocess.PIPE, text=True, timeout=300, start_new_session=True
    )
    lines = done.stdout.splitlines()
    assert "after Ctrl-C: 5" in lines
    assert any(line.startswith("said: vllm: the engine failed (EngineCore encountered an issue") for line in lines)
    assert "left: []" in lines


def test_a_vllm_server_says_the_same(taught, tmp_path, greedy):
    folder = taught.save(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    settings = ["--dtype=float32", f"--max-model-len={CAPACITY}", "--enforce-eager", "--served-model-name=m"]
    settings += ["--max-num-seqs=8", "--kv-cache-memory-bytes=20000000", "--logprobs-mode=processed_logprobs"]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--model={folder}",
        f"--port={port}",
        *settings,
    ]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        ends = time.monotonic() + 240
        while True:
            assert server.poll() is None
            assert time.monotonic() < ends
            with contextlib.suppress(urllib.error.URLError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as reply:
                    assert json.load(reply)["data"][0]["id"] == "m"
                break
            time.sleep(1)
        sampler = OpenAISampler(taught.codec, url=f"http://127.0.0.1:{port}/v1", model="m", rows=4, capacity=CAPACITY)
        for mine, theirs in zip(run(taught.two_turns(sampler)), run(taught.two_turns(greedy)), strict=True):
            assert_same(mine, theirs)
        for word in TURNS:
            assert_same(run(taught.turn(sampler, word)), run(taught.turn(greedy, word)))
        sampler.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
