"""What every engine of rollouts.py does: the same searches, the same tokens sampled, whatever the model says."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tspo.datasets.questions import Question
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.rollout.models import load_tokenizer
from workers import peak_mb

TURNS = 4
SEARCHES = TURNS - 1


@dataclass(frozen=True, slots=True)
class Workload:
    """How much an engine has to do, and on what; `concurrency` episodes at most are under way at once."""

    model: str
    corpus: Path
    cache: Path
    questions: tuple[Question, ...]
    group: int
    turn_tokens: int
    feedback_tokens: int
    concurrency: int
    threads: int
    top_k: int = 3

    def question(self, episode: int) -> Question:
        """The members of a group ask the same."""
        return self.questions[episode // self.group % len(self.questions)]

    def queries(self, episode: int) -> list[str]:
        """What an episode searches for, turn by turn: its question, then its supporting titles."""
        question = self.question(episode)
        wanted = [question.question, *question.supporting_titles]
        return [wanted[turn % len(wanted)] for turn in range(SEARCHES)]


@dataclass(slots=True)
class Round:
    """What an engine did; tokens are sums over all episodes, `prompt_tokens` over one episode a group.

    `log_probabilities` are those of sampled tokens that are finite; None where rollouts do not give them.
    """

    seconds: float
    prompt_tokens: int
    feedback_tokens: int
    sampled_tokens: int
    read: str
    log_probabilities: int | None


@dataclass(slots=True)
class Read:
    """One episode as an engine saw it, for the counts of a round."""

    prompt_tokens: int
    feedback: list[str] = field(default_factory=list)
    feedback_tokens: int = 0
    sampled_tokens: int = 0
    logprobs: list[float] | None = None


class Engine(ABC):
    """One way to run rollouts; made in a process of its own."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.tokenizer = load_tokenizer(workload.model)
        self.codec = Codec(self.tokenizer)

    @cached_property
    def retriever(self) -> Retriever:
        """Opened at the first search: vLLM cannot be made where numba, which BM25 needs, is loaded already."""
        from tspo.retrieval.bm25 import cached_bm25

        return cached_bm25(self.workload.corpus, self.workload.cache / "indexes")

    @abstractmethod
    def rollout(self, episodes: Sequence[int], seed: int) -> list[Read]:
        """Run these episodes; all that happens here is timed."""

    def round(self, episodes: int, seed: int) -> Round:
        """Run and count so many episodes."""
        started = time.perf_counter()
        done = self.rollout(range(episodes), seed)
        seconds = time.perf_counter() - started
        logprobs = [episode.logprobs for episode in done if episode.logprobs is not None]
        return Round(
            seconds,
            prompt_tokens=sum(episode.prompt_tokens for episode in done[:: self.workload.group]),
            feedback_tokens=sum(episode.feedback_tokens for episode in done),
            sampled_tokens=sum(episode.sampled_tokens for episode in done),
            read=hashlib.sha256(json.dumps([episode.feedback for episode in done]).encode()).hexdigest(),
            log_probabilities=sum(math.isfinite(value) for some in logprobs for value in some) if logprobs else None,
        )

    def peak(self) -> float:
        """The most MB that this process had in memory."""
        return peak_mb()

    def search(self, queries: Sequence[str]) -> list[tuple[str, list[int]]]:
        """For each query the feedback, as text and as the tokens that are appended."""
        found = self.retriever.search(queries, self.workload.top_k)
        return [
            self.codec.feedback([passage.contents for passage in passages], self.workload.feedback_tokens)
            for passages in found
        ]

    def capacity(self) -> int:
        """Tokens that the longest episode can have."""
        longest = max(len(self.codec.prompt(question.question)) for question in self.workload.questions)
        tags = len(self.codec.feedback([], 0)[1])
        per_search = self.workload.turn_tokens + self.workload.feedback_tokens + tags
        return longest + SEARCHES * per_search + self.workload.turn_tokens + 1

    def batches(self, episodes: Sequence[int]) -> Iterator[Sequence[int]]:
        """Episodes that are under way together."""
        for start in range(0, len(episodes), self.workload.concurrency):
            yield episodes[start : start + self.workload.concurrency]


class TurnByTurn(Engine):
    """An engine that completes token sequences, called once a turn with the whole conversations."""

    @abstractmethod
    def complete(self, conversations: list[list[int]]) -> list[tuple[list[int], list[float]]]:
        """The sampled tokens after each conversation, and their log-probabilities."""

    @abstractmethod
    def begin(self, seed: int) -> None:
        """Called before a round's first batch."""

    def rollout(self, episodes: Sequence[int], seed: int) -> list[Read]:
        """See `Engine`."""
        self.begin(seed)
        return [done for batch in self.batches(episodes) for done in self._batch(batch)]

    def _batch(self, episodes: Sequence[int]) -> list[Read]:
        conversations = [self.codec.prompt(self.workload.question(episode).question) for episode in episodes]
        done = [Read(len(conversation), logprobs=[]) for conversation in conversations]
        for turn in range(TURNS):
            for read, conversation, (sampled, logprobs) in zip(
                done, conversations, self.complete(conversations), strict=True
            ):
                conversation += sampled
                read.sampled_tokens += len(sampled)
                assert read.logprobs is not None
                read.logprobs += logprobs
            if turn == SEARCHES:
                break
            found = self.search([self.workload.queries(episode)[turn] for episode in episodes])
            for read, conversation, (text, token_ids) in zip(done, conversations, found, strict=True):
                conversation += token_ids
                read.feedback.append(text)
                read.feedback_tokens += len(token_ids)
        return done


def make_engine(module: str, name: str, workload: Workload) -> Engine:
    """The engine of a module that is imported here: no process loads the libraries of another's engine."""
    return getattr(importlib.import_module(module), name)(workload)
