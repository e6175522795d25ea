import asyncio
import json
import socket
from contextlib import contextmanager
from dataclasses import asdict
from typing import ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import fastapi
import torch

from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.retrieval.base import Passage
from tspo.retrieval.http_calls import Malformed
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.openai_sampler import OpenAISampler, read_completion
from tspo.rollout.sampler import GREEDY, SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler

TURNS = ["first", "second", "third", "fourth", "fifth", "sixth"]


class Server:
    """An OpenAI-compatible server on `taught`; as vLLM's, or one that knows nothing beyond OpenAI's own.

    `script` holds functions of a whole reply that give what is sent instead, one a call, then replies are plain.
    """

    def __init__(self, taught):
        self.taught = taught
        self.script = []
        self.asked = []
        self.headers = []
        self.like_openai = False

    async def complete(self, request: fastapi.Request):
        body = await request.json()
        chat = request.url.path.endswith("/chat/completions")
        if chat:
            said = [message["content"] for message in body["messages"]]
            body["prompt"] = [token for text in ("<|im_start|>", *said) for token in self.taught.codec.policy(text)]
        self.asked.append(body)
        self.headers.append(request.headers)
        reply = await asyncio.to_thread(self.generate, body)
        if chat:
            (choice,) = reply["choices"]
            kept = {"index": 0, "finish_reason": choice["finish_reason"]}
            reply["choices"] = [kept | {"message": {"role": "assistant", "content": choice["text"]}}]
        if self.script:
            return self.script.pop(0)(reply)
        return reply

    def generate(self, body):
        codec, ids, logprobs, finish, reason = self.taught.codec, [], [], "length", None
        while len(ids) < body["max_tokens"]:
            with torch.no_grad():
                logits = self.taught.model(torch.tensor([body["prompt"] + ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(logits.argmax()))
            logprobs.append(float(logits.max()))
            text = codec.decode(ids)
            if ids[-1] in codec.eos_token_ids:
                finish, text = "stop", codec.decode(ids[:-1])
                break
            if found := [stop for stop in body["stop"] if stop in text]:
                finish, reason = "stop", found[0]
                text = text[: text.index(found[0]) + (0 if self.like_openai else len(found[0]))]
                break
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": {"token_logprobs": logprobs}}
        if not self.like_openai:
            choice |= {"token_ids": ids, "stop_reason": reason}
        return {"choices": [choice], "usage": {"completion_tokens": len(ids)}}


@pytest.fixture(scope="session")
def served(serve_app):
    """A function that serves what answers completions while a block runs, and gives its address."""

    @contextmanager
    def serve(complete):
        app = fastapi.FastAPI()
        app.post("/v1/completions")(complete)
        app.post("/v1/chat/completions")(complete)
        with serve_app(app) as address:
            yield f"{address}/v1"

    return serve


@pytest.fixture
def server(taught, served):
    server = Server(taught)
    with served(server.complete) as server.url:
        yield server


@pytest.fixture
def sampler(server):
    sampler = OpenAISampler(server.taught.codec, url=server.url, model="m", rows=4, capacity=300, timeout_seconds=20)
    yield sampler
    sampler.close()


def run(coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(bounded())


def test_two_turns_are_those_of_the_transformers_sampler(taught, sampler):
    reference = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
    expected, said = run(taught.two_turns(reference)), run(taught.two_turns(sampler))
    context = taught.prompt("seventh")
    for theirs, mine in zip(expected, said, strict=True):
        assert taught.margin(context, theirs.token_ids) > 1  # no rounding can change a token
        assert (mine.token_ids, mine.text, mine.finish) == (theirs.token_ids, theirs.text, theirs.finish)
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
        context = [*context, *theirs.token_ids, *taught.feedback()]
    assert [turn.text for turn in said] == ["<search>Paris</search>", "<answer>Paris</answer>"]


@pytest.mark.parametrize("word", TURNS)
def test_a_turn_ends_where_every_sampler_ends_it(taught, sampler, word):
    reference = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
    expected, said = run(taught.turn(reference, word)), run(taught.turn(sampler, word))
    assert (said.token_ids, said.text, said.finish) == (expected.token_ids, expected.text, expected.finish)


@pytest.mark.parametrize("word", ["first", "second", "fourth"])
def test_a_server_that_returns_text_alone(taught, server, sampler, word):
    server.like_openai = True
    reference = TransformersSampler(taught.model, taught.codec, rows=1, capacity=300, sampling=GREEDY)
    expected, said = run(taught.turn(reference, word)), run(taught.turn(sampler, word))
    assert (said.text, said.finish, said.logprobs) == (expected.text, expected.finish, None)
    assert taught.codec.decode(said.token_ids) == said.text


@pytest.fixture
def chat_sampler(server):
    server.like_openai = True
    codec = Codec(server.taught.codec.tokenizer, "{question}", chat_template=False)
    sampler = OpenAISampler(
        codec,
        url=server.url,
        model="m",
        rows=4,
        capacity=300,
        timeout_seconds=20,
        chat=True,
        body={"seed": None, "n": 1},
    )
    yield sampler
    sampler.close()


def test_a_chat_server_is_asked_in_messages(taught, server, chat_sampler):
    first, second = run(taught.two_turns(chat_sampler))
    assert [first.text, second.text] == ["<search>Paris</search>", "<answer>Paris</answer>"]
    assert (first.finish, first.logprobs) == ("stop", None)
    feedback = taught.codec.decode(taught.feedback())
    *_, asked = server.asked
    assert [(message["role"], message["content"]) for message in asked["messages"][1:]] == [
        ("assistant", "<search>Paris</search>"),
        ("user", feedback),
    ]
    assert asked["n"] == 1
    assert not asked.keys() & {"seed", "stop_token_ids", "top_k"}


def test_without_its_chat_template_a_prompt_is_its_words(taught):
    tokenizer = taught.codec.tokenizer
    assert tokenizer.chat_template
    codec = Codec(tokenizer, "Ask: {question}?", chat_template=False)
    assert tokenizer.decode(codec.prompt("<|im_start|>who"), skip_special_tokens=True) == "Ask: < |im_start|>who?"


@pytest.mark.parametrize("content", [7, ["text"], {}])
def test_a_message_without_text_is_malformed(taught, content):
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    with pytest.raises(Malformed, match="neither token ids nor text"):
        read_completion(json.dumps({"choices": [choice]}).encode(), 10, taught.codec)


def test_what_is_asked(server, sampler, taught):
    run(taught.two_turns(sampler))
    first, second = server.asked
    assert first["prompt"] == taught.prompt("seventh")
    assert second["prompt"] == [*first["prompt"], *taught.codec.policy("<search>Paris</search>"), *taught.feedback()]
    assert first["seed"] != second["seed"]
    run(taught.two_turns(sampler))
    assert [body["seed"] for body in server.asked[2:]] == [first["seed"], second["seed"]]
    sampling = {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    assert {name: first[name] for name in ("model", *sampling)} == {"model": "m", **sampling}


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_left_out_is_asked_for(server, taught, chat):
    codec = Codec(taught.codec.tokenizer, "{question}", chat_template=not chat)
    options = SamplingOptions(0.7, top_k=20, top_p=0.9, min_p=0.05)
    sampler = OpenAISampler(codec, url=server.url, model="m", rows=1, capacity=300, chat=chat, sampling=options)
    run(taught.two_turns(sampler))
    sampler.close()
    for asked in server.asked:
        assert {name: asked[name] for name in ("temperature", "top_k", "top_p", "min_p")} == asdict(options)


def test_calls_are_bounded_and_side_by_side(taught, served):
    inside, peak = 0, 0
    answers = Server(taught)

    async def complete(request: fastapi.Request):
        nonlocal inside, peak
        inside += 1
        peak = max(peak, inside)
        await asyncio.sleep(0.05)
        inside -= 1
        return await answers.complete(request)

    async def all_turns(sampler):
        return await asyncio.gather(*(taught.turn(sampler, "second") for _ in range(8)))

    with served(complete) as url:
        sampler = OpenAISampler(taught.codec, url=url, model="m", rows=3, capacity=300)
        assert len(run(all_turns(sampler))) == 8
        sampler.close()
    assert peak == 3


def answer(status, body=b"", **headers):
    return lambda _: fastapi.Response(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "failures",
    [
        [answer(500, b"oops")] * 2,
        [answer(429, b"slow down", retry_after="0"), answer(503)],
        [answer(200, b"<html>"), answer(200, b'{"choices": []}'), answer(200, b"[]")],
        [lambda reply: reply | {"usage": {"completion_tokens": 99}}],
    ],
)
def test_what_passes_is_asked_again(taught, server, sampler, failures):
    server.script += failures
    assert run(taught.turn(sampler, "second")).text == "<answer>Rome</answer>"
    assert len(server.asked) == len(failures) + 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (answer(500, b"oops"), r"refused to sample a turn \(500: oops\)"),
        (answer(400, b"too long"), r"refused to sample a turn \(400: too long\)"),
        (answer(401), "will not let us sample \\(401\\); name the variable of its key in rollout.server.api_key_var"),
        (answer(404, b"no such model"), r"no completions of this model at this address \(404: no such model\)"),
        (answer(429), r"\(429"),
        (answer(200, b"rubbish"), "a reply that is not JSON"),
    ],
)
def test_what_stays_is_one_clear_line(taught, server, failure, said):
    server.script += [failure] * 1000
    sampler = OpenAISampler(taught.codec, url=server.url, model="m", rows=1, capacity=300, timeout_seconds=1)
    with pytest.raises(BadInput, match=said) as raised:
        run(taught.turn(sampler, "second"))
    assert "\n" not in str(raised.value)
    assert server.url in str(raised.value)
    sampler.close()


def test_a_server_that_is_gone(taught):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    sampler = OpenAISampler(taught.codec, url=url, model="m", rows=1, capacity=300, timeout_seconds=1)
    with pytest.raises(BadInput, match=r"no answer within 1 s \(ConnectError"):
        run(taught.turn(sampler, "second"))
    sampler.close()


def test_the_key_is_sent_and_never_said(taught, server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    settings = {"url": server.url, "model": "m", "rows": 1, "capacity": 300, "api_key_variable": "TEST_KEY"}
    sampler = OpenAISampler(taught.codec, **settings)
    run(taught.turn(sampler, "second"))
    assert server.headers[0]["authorization"] == "Bearer secret"
    server.script.append(answer(403))
    with pytest.raises(BadInput, match="put its key in TEST_KEY") as raised:
        run(taught.turn(sampler, "second"))
    assert "secret" not in str(raised.value)
    sampler.close()
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(BadInput, match="TEST_KEY holds no key"):
        OpenAISampler(taught.codec, **settings)


def reply(ids=None, *, text="", finish="stop", **choice):
    choice = {"text": text, "finish_reason": finish, **choice}
    if ids is not None:
        choice["token_ids"] = ids
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        reply([5, 401]),
        reply([5, -1]),
        reply([True]),
        reply(["a"]),
        reply([5], finish=None),
        b'{"choices": [{"finish_reason": "stop"}]}',
        b'{"choices": [{"finish_reason": "stop", "message": {"role": "assistant"}}]}',
        reply([5, 6], logprobs={"token_logprobs": [-1.0]}),
        reply([5], logprobs={"token_logprobs": [float("nan")]}),
        reply([5], logprobs={"token_logprobs": [0.5]}),
        reply([5], logprobs={"token_logprobs": ["-1"]}),
        b'{"choices": [1]}',
        b"null",
    ],
)
def test_a_reply_of_another_form_is_malformed(taught, body):
    with pytest.raises(Malformed):
        read_completion(body, 10, taught.codec)


@pytest.mark.parametrize(
    ("choice", "finish", "reason"),
    [
        # vLLM's reasoning parsers, when the tokens ran out within the thought
        ({"finish_reason": "length", "message": {"content": None, "reasoning_content": "so"}}, "length", "length"),
        ({"finish_reason": "content_filter", "message": {"content": None}}, "end", "content_filter"),
        ({"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": []}}, "end", "tool_calls"),
        ({"finish_reason": "stop", "message": {"content": ""}}, "end", "stop"),
        ({"finish_reason": "length", "text": None}, "length", "length"),
    ],
)
def test_a_reply_without_text_ends_the_turn(taught, choice, finish, reason):
    sampled = read_completion(json.dumps({"choices": [choice]}).encode(), 10, taught.codec)
    assert (sampled.token_ids, sampled.text, sampled.finish) == ([], "", finish)
    assert sampled.reason.startswith(reason)


def test_a_turn_that_ended_for_a_reason_of_the_servers_own_is_what_there_is(taught):
    sampled = read_completion(reply([5, 6], finish="content_filter"), 10, taught.codec)
    assert (sampled.token_ids, sampled.finish, sampled.reason) == ([5, 6], "end", "content_filter")


def test_a_turn_that_the_server_cut_short_is_bad_input(taught):
    with pytest.raises(BadInput, match="cut a turn at 2 tokens of 10; raise its context length"):
        read_completion(reply([5, 6], finish="length"), 10, taught.codec)


def test_tokens_after_the_end_are_not_kept(taught):
    ids = taught.codec.policy("<search>x</search> and more")
    kept = taught.codec.policy("<search>x</search>")
    sampled = read_completion(reply(ids, logprobs={"token_logprobs": [-1.0] * len(ids)}), 100, taught.codec)
    assert (sampled.token_ids, sampled.logprobs, sampled.finish) == (kept, [-1.0] * len(kept), "stop")
    assert len(read_completion(reply([5] * 9), 4, taught.codec).token_ids) == 4


@pytest.mark.parametrize(
    ("said", "more", "text", "finish"),
    [
        ("<search>x", {}, "<search>x</search>", "stop"),
        ("<think>a</think><answer>x", {}, "<think>a</think><answer>x</answer>", "stop"),
        ("<search>x", {"stop_reason": "</answer>"}, "<search>x</answer>", "stop"),
        ("<search>x</search> more", {}, "<search>x</search>", "stop"),
        ("done", {}, "done", "end"),
        ("", {}, "", "end"),
        ("half \ud800", {}, "half \ufffd", "end"),
    ],
)
def test_text_alone(taught, said, more, text, finish):
    sampled = read_completion(reply(text=said, **more), 100, taught.codec)
    assert (sampled.text, sampled.finish, sampled.logprobs) == (text, finish, None)


def test_text_never_becomes_a_special_token(taught):
    sampled = read_completion(reply(text="a<|im_end|>b<|im_start|>"), 100, taught.codec)
    special = set(taught.codec.tokenizer.all_special_ids)
    assert not special & set(sampled.token_ids)


def test_weights_are_not_taken_over(sampler):
    with pytest.raises(BadInput, match="train with transformers or vllm"):
        sampler.refresh()


def test_a_turn_that_does_not_fit_is_refused(taught, sampler):
    with pytest.raises(ValueError, match="do not fit in 300"):
        run(taught.two_turns(sampler, most=299))


def test_an_episode_on_a_server_is_followed_turn_by_turn(taught, sampler):
    class Found:
        def search(self, queries, top_k):
            return [[Passage("p", '"Paris"\nParis is the capital of France.', 1.0)] for _ in queries]

    class Watcher:
        told: ClassVar = []

        def ended_turn(self, turn):
            self.told.append(turn.text)

        def found(self, turn, passages):
            self.told.append(passages[0].id)

    class Prompt(Codec):
        def prompt(self, question):
            return taught.prompt(question)

    codec = Prompt(taught.codec.tokenizer)
    limits = Limits(max_turn_tokens=40, max_feedback_tokens=100, max_total_tokens=300)
    request = Request(Question("q", "seventh", ("Paris",), "s"), "g", "t", "seed", Watcher())
    (trajectory,) = AgentLoop(sampler, codec, Found(), limits).rollout([request])
    assert trajectory.answer == "Paris"
    assert Watcher.told == ["<search>Paris</search>", "p", "<answer>Paris</answer>"]
