"""Turns from a server that is made up: what it is asked, and how its answers are cut."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("transformers")

from tspo.rollout.codec import Codec
from tspo.rollout.sampler import Sampled
from tspo.training.verl.server_sampler import ServerSampler


@dataclass
class Output:
    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str = "completed"
    extra_fields: dict[str, Any] = field(default_factory=lambda: {"global_steps": 3})


class Client:
    def __init__(self, *answers: Output) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def generate(self, **asked: Any) -> Output:
        self.asked.append(asked)
        return self.answers.pop(0)


@pytest.fixture
def codec(tiny_tokenizer: Any) -> Codec:
    return Codec(tiny_tokenizer, "{question}")


def sample(client: Client, codec: Codec, prompts: list[list[int]], max_tokens: int = 50, **options: Any) -> Any:
    sampler = ServerSampler(client, codec, {"temperature": 0.7}, capacity=500, **options)

    async def turns() -> list[Sampled]:
        async with sampler.session("seed") as session:
            return [await session.sample(prompt, max_tokens) for prompt in prompts]

    return sampler, asyncio.run(turns())


def answer(codec: Codec, text: str, *more: int) -> Output:
    ids = [*codec.policy(text), *more]
    return Output(ids, [-float(i) for i in range(len(ids))])


def test_a_turn_is_asked_for_with_all_that_came_before(codec: Codec) -> None:
    first, second = answer(codec, "<search>it</search>"), answer(codec, "<answer>b</answer>")
    client = Client(first, second)
    sampler, (one, two) = sample(client, codec, [[1, 2], [3]])
    assert client.asked[0]["prompt_ids"] == [1, 2]
    assert client.asked[1]["prompt_ids"] == [1, 2, *first.token_ids, 3]
    assert client.asked[0]["request_id"] == client.asked[1]["request_id"]
    assert (one.finish, two.finish) == ("stop", "stop")
    assert two.logprobs == second.log_probs
    assert sampler.weights == {3}
    asked = client.asked[0]["sampling_params"]
    assert asked["temperature"] == 0.7
    assert asked["max_tokens"] == 50
    assert set(asked["stop"]) == {"</search>", "</answer>"}
    assert "seed" not in asked


def test_seeds_are_sent_where_they_are_wanted(codec: Codec) -> None:
    client = Client(answer(codec, "<search>it</search>"), answer(codec, "<answer>b</answer>"))
    sample(client, codec, [[1], [2]], seeded=True)
    one, two = (asked["sampling_params"]["seed"] for asked in client.asked)
    assert one != two


def test_what_a_server_says_after_the_end_of_a_turn_is_cut(codec: Codec) -> None:
    said = answer(codec, "<answer>b</answer>")
    _, (turn,) = sample(Client(Output([*said.token_ids, 5, 6], [*said.log_probs, -1.0, -1.0])), codec, [[1]])
    assert turn.token_ids == said.token_ids
    assert turn.logprobs == said.log_probs


def test_an_end_token_and_the_limit_end_a_turn(codec: Codec) -> None:
    (eos,) = codec.eos_token_ids
    _, (turn,) = sample(Client(answer(codec, "well", eos)), codec, [[1]])
    assert turn.finish == "end"
    said = answer(codec, "well well")
    _, (turn,) = sample(Client(said), codec, [[1]], max_tokens=len(said.token_ids))
    assert turn.finish == "length"


@pytest.mark.parametrize("log_probs", [[-1.0], None])
def test_a_turn_that_ends_for_no_reason_is_an_error(codec: Codec, log_probs: list[float] | None) -> None:
    with pytest.raises(RuntimeError):
        sample(Client(Output(codec.policy("well well"), log_probs, stop_reason="aborted")), codec, [[1]])
