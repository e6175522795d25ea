"""The agent loop: think, search, read, answer, one coroutine an episode and many side by side."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tspo.datasets.questions import Question
from tspo.errors import NotFinite
from tspo.protocol import Answer, Search, parse_action
from tspo.retrieval.base import Passage, Retriever, RetrieverError
from tspo.retrieval.query_cache import cache_counts
from tspo.rollout.batched_search import BatchedSearch, SearchLog
from tspo.rollout.codec import Codec
from tspo.rollout.sampler import Sampled, Sampler, Session, StreamingSession
from tspo.rollout.watcher import Watcher
from tspo.trajectory import OPENED, StopReason, Trajectory, Turn


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an episode ends; tokens count in the policy's tokenizer.

    `max_total_tokens` counts everything: prompt, policy and feedback.
    """

    max_turns: int = 4
    max_turn_tokens: int = 500
    max_feedback_tokens: int = 500
    max_total_tokens: int = 4096
    top_k: int = 3


@dataclass(frozen=True, slots=True)
class Request:
    """One episode to run; `seed` decides all its random choices, and `watcher` changes none of them."""

    question: Question
    group_id: str
    trajectory_id: str
    seed: str
    watcher: Watcher | None = None


class AgentLoop:
    """Runs episodes over one sampler and one retriever."""

    def __init__(self, sampler: Sampler, codec: Codec, retriever: Retriever, limits: Limits) -> None:
        self.sampler = sampler
        self.codec = codec
        self.retriever = retriever
        self.limits = limits
        self.searches = SearchLog()
        """The searches of all rollouts so far."""

    def rollout(
        self, requests: Sequence[Request], on_done: Callable[[Trajectory], None] | None = None
    ) -> list[Trajectory]:
        """One trajectory a request, in their order; `on_done` sees each as it ends."""
        hits, misses = cache_counts(self.retriever)
        trajectories = _run(self._rollout(requests, on_done))
        hits_now, misses_now = cache_counts(self.retriever)
        self.searches.cache_hits += hits_now - hits
        self.searches.cache_misses += misses_now - misses
        return trajectories

    async def _rollout(
        self, requests: Sequence[Request], on_done: Callable[[Trajectory], None] | None
    ) -> list[Trajectory]:
        searcher = BatchedSearch(self.retriever, self.limits.top_k, self.searches)

        async def run(request: Request) -> Trajectory:
            trajectory = await self.episode(request, searcher.search)
            if on_done is not None:
                on_done(trajectory)
            return trajectory

        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(run(request)) for request in requests]
        except ExceptionGroup as group:
            failure = group.exceptions[0]
        if failure is not None:
            raise failure  # as it was raised: callers know errors, not groups of them
        return [task.result() for task in running]

    async def episode(self, request: Request, search: Callable[[str], Awaitable[list[Passage]]]) -> Trajectory:
        """One episode; `search` gives the passages of a query, or raises its RetrieverError."""
        limits, watcher = self.limits, request.watcher
        prompt = self.codec.prompt(request.question.question)
        turns: list[Turn] = []
        answer: str | None = None
        stop_reason = StopReason.MAX_TURNS
        context = len(prompt)
        new_tokens = prompt
        async with self.sampler.session(request.seed) as session:
            while len(turns) < limits.max_turns:
                room = min(limits.max_turn_tokens, limits.max_total_tokens - context)
                sampled = await _sample(session, new_tokens, room, watcher)
                if sampled.logprobs is not None and not all(map(math.isfinite, sampled.logprobs)):
                    raise NotFinite("the sampler gave a log-probability that is nan or infinite; look at the model")
                context += len(sampled.token_ids)
                action = parse_action(sampled.text)
                turn = Turn(sampled.text, token_ids=sampled.token_ids, logprobs=sampled.logprobs)
                turns.append(turn)
                if sampled.reason is not None:
                    turn.extra["finish_reason"] = sampled.reason[:80]
                if isinstance(action, Search):
                    turn.query = action.query
                if watcher is not None:
                    watcher.ended_turn(turn)
                if isinstance(action, Answer):
                    answer, stop_reason = action.text, StopReason.ANSWER
                    break
                if not isinstance(action, Search):
                    cut = sampled.finish == "length"
                    stop_reason = StopReason.MAX_TOKENS if cut else StopReason.NO_ACTION
                    break
                if len(turns) == limits.max_turns:
                    break
                try:
                    passages = await search(action.query)
                except RetrieverError as error:
                    if watcher is not None:
                        watcher.failed(turn, error)
                    stop_reason = StopReason.RETRIEVER_ERROR
                    break
                feedback, new_tokens = self.codec.feedback(
                    [passage.contents for passage in passages], limits.max_feedback_tokens
                )
                if context + len(new_tokens) >= limits.max_total_tokens:
                    stop_reason = StopReason.MAX_TOKENS
                    break
                turn.feedback, turn.feedback_token_ids = feedback, new_tokens
                context += len(new_tokens)
                if watcher is not None:
                    watcher.found(turn, passages)
        return Trajectory(
            group_id=request.group_id,
            trajectory_id=request.trajectory_id,
            question=request.question.question,
            golden_answers=list(request.question.golden_answers),
            turns=turns,
            answer=answer,
            stop_reason=stop_reason,
            prompt_token_ids=prompt,
            extra=_origin(request.question) | ({OPENED: self.codec.opened} if self.codec.opened else {}),
        )


def _run(work: Coroutine[Any, Any, list[Trajectory]]) -> list[Trajectory]:
    """What `work` gives; a notebook's thread has a loop already, and another thread runs it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _origin(question: Question) -> dict[str, Any]:
    """What evaluation groups trajectories by."""
    hops = {} if question.hops is None else {"hops": question.hops}
    return {"data_source": question.data_source, **hops}


async def _sample(session: Session, new_tokens: list[int], room: int, watcher: Watcher | None) -> Sampled:
    if watcher is not None and isinstance(session, StreamingSession):
        return await session.stream(new_tokens, room, watcher.sampled)
    return await session.sample(new_tokens, room)
