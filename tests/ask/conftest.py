from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.ask.agent import Agent
from tspo.config import load_config
from tspo.retrieval.base import Passage
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop
from tspo.rollout.sampler import Sampled

HOSTILE = "\x1b]0;evil\x07 [bold]no[/bold] \x9b2J :smile: \u202eback"


class Scripted:
    """A sampler that says each episode's turns, token by token where it streams; None among them is Ctrl-C."""

    def __init__(self, codec: Codec, turns: list[str | None], streams: bool) -> None:
        self.codec, self.turns, self.streams = codec, turns, streams

    @asynccontextmanager
    async def session(self, seed: str) -> Iterator[Any]:
        yield _Streaming(self) if self.streams else _Session(self)


class _Session:
    def __init__(self, sampler: Scripted) -> None:
        self.codec, self.turns = sampler.codec, iter(sampler.turns)

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        if (text := next(self.turns)) is None:
            raise KeyboardInterrupt
        ids = self.codec.policy(text)
        return Sampled(ids, None, self.codec.decode(ids), "stop")


class _Streaming(_Session):
    async def stream(self, new_token_ids: list[int], max_tokens: int, on_tokens: Callable[..., None]) -> Sampled:
        sampled = await self.sample(new_token_ids, max_tokens)
        for count in range(1, len(sampled.token_ids) + 1):
            on_tokens(sampled.token_ids[:count])
        return sampled


class Shelf:
    """Finds the passages that hold a word of the query, in the shelf's order."""

    def __init__(self, passages: list[Passage]) -> None:
        self.passages = passages

    def search(self, queries: list[str], top_k: int) -> list[list[Passage]]:
        return [[p for p in self.passages if set(q.split()) & set(p.contents.split())][:top_k] for q in queries]


PASSAGES = [
    Passage("p", '"Paris"\nParis is the capital of France.', 2.0),
    Passage("f", '"France"\nThe capital of France is Paris, a city.', 1.5),
    Passage("h", f'"{HOSTILE}"\nhostile {HOSTILE}', 1.0),
]


@pytest.fixture(scope="session")
def codec(tiny_tokenizer: Any) -> Codec:
    return Codec(tiny_tokenizer, "Question: {question}\n")


@pytest.fixture
def agent(codec: Codec, tmp_path: Any) -> Callable[..., Agent]:
    """A function that makes an agent of the turns that it is given; settings are `key=value`."""

    def make(turns: list[str | None], *settings: str, streams: bool = True, retriever: Any = None) -> Agent:
        path = tmp_path / "run.yaml"
        path.write_text("model: none\ndata: {world: {}}\n")
        config = load_config(path, list(settings))
        loop = AgentLoop(Scripted(codec, turns, streams), codec, retriever or Shelf(PASSAGES), config.rollout.limits())
        return Agent(loop, config)

    return make
