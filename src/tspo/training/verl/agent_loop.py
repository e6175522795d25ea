"""The search episode as an agent loop of verl: this project's protocol, limits and retrievers on verl's servers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from tspo.config import RolloutSection
from tspo.retrieval.base import Retriever
from tspo.rewards.stepsearch import FIELD as SUPPORTING_PASSAGES
from tspo.rollout.batched_search import BatchedSearch, SearchLog
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.models import end_token_ids
from tspo.training.retriever import retriever_of
from tspo.training.verl.carried import carry
from tspo.training.verl.names import AGENT, CPU, SETTINGS
from tspo.training.verl.questions import question_of_row
from tspo.training.verl.server_sampler import ServerSampler
from tspo.trajectory import Trajectory


@dataclass(slots=True)
class _Worker:
    """What all episodes of one of verl's worker processes share."""

    rollout: RolloutSection
    codec: Codec
    retriever: Retriever
    limits: Limits
    searcher: BatchedSearch
    seeded: bool


_worker: _Worker | None = None


@register(AGENT)
class SearchAgentLoop(AgentLoopBase):
    """One episode; verl makes an agent loop for each.

    Its settings are `actor_rollout_ref.rollout.custom.tspo`: `rollout` (this project's section of that name) and
    `corpus`.
    """

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """See `AgentLoopBase`: the episode of the question in a row of the data set."""
        worker = _shared(self.config, self.tokenizer)
        sampler = ServerSampler(
            self.server_manager,
            worker.codec,
            sampling_params,
            capacity=worker.limits.max_total_tokens,
            seeded=worker.seeded,
        )
        question = question_of_row(row)
        step, session = int(row.get("global_steps", 0)), int(row.get("session_id", 0))
        group_id = f"{step:06d}-{question.id}"
        request = Request(
            question, group_id, f"{group_id}-{session}", f"{self.rollout_config.seed}/{step}/{question.id}/{session}"
        )
        searching = SearchTime(worker.searcher)
        started = time.perf_counter()
        loop = AgentLoop(sampler, worker.codec, worker.retriever, worker.limits)
        trajectory = await loop.episode(request, searching.search)
        seconds = time.perf_counter() - started
        if question.supporting_passages:
            trajectory.extra[SUPPORTING_PASSAGES] = list(question.supporting_passages)

        output = output_of(trajectory)
        output.metrics = AgentLoopMetrics(generate_sequences=seconds - searching.seconds, tool_calls=searching.seconds)
        if sampler.weights:
            output.extra_fields |= {"min_global_steps": min(sampler.weights), "max_global_steps": max(sampler.weights)}
        return output


def output_of(trajectory: Trajectory) -> AgentLoopOutput:
    """A trajectory from a rollout as verl's agent loops give it: tokens, mask, log-probabilities, and what it carries.

    The mask is 1 on the tokens that the loss is over: the sampled ones, none where the retriever failed.
    """
    completion = completion_of(trajectory)
    counts = completion.sampled * (not trajectory.retriever_failed)
    return AgentLoopOutput(
        prompt_ids=trajectory.prompt_token_ids,
        response_ids=completion.token_ids.tolist(),
        response_mask=counts.tolist(),
        response_logprobs=completion.logprobs.tolist(),
        num_turns=len(trajectory.turns),
        metrics=AgentLoopMetrics(),
        extra_fields=carry(trajectory, completion.turn_index.tolist()),
    )


class SearchTime:
    """A search that adds up how long it was waited for."""

    def __init__(self, searcher: BatchedSearch) -> None:
        self._searcher = searcher
        self.seconds = 0.0

    async def search(self, query: str) -> Any:
        """See `BatchedSearch.search`."""
        started = time.perf_counter()
        try:
            return await self._searcher.search(query)
        finally:
            self.seconds += time.perf_counter() - started


def _shared(config: Any, tokenizer: Any) -> _Worker:
    """This process's codec and retriever, made with its first episode."""
    global _worker
    if _worker is None:
        rollout_config = config.actor_rollout_ref.rollout
        settings = OmegaConf.to_container(rollout_config.custom[SETTINGS], resolve=True)
        rollout = RolloutSection.model_validate(settings["rollout"])
        corpus = settings["corpus"]
        retriever = retriever_of(rollout, None if corpus is None else Path(corpus))
        _worker = _Worker(
            rollout=rollout,
            codec=Codec(tokenizer, rollout.prompt, end_token_ids=end_token_ids(tokenizer.name_or_path, tokenizer)),
            retriever=retriever,
            limits=rollout.limits(),
            searcher=BatchedSearch(retriever, rollout.top_k, SearchLog()),
            seeded=bool(rollout_config.full_determinism) or rollout_config.name == CPU,
        )
    return _worker
