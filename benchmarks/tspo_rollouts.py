"""This project's rollouts for rollouts.py: AgentLoop over TransformersSampler, as TSPOTrainer runs them.

The sampler samples and is not told of end tokens or closing tags; what the loop reads as a turn's text is the script's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from rollout_workload import TURNS, Engine, Read, Workload
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.sampler import Sampled, Sampler, Session


class Tspo(Engine):
    """What `tspo train` samples with."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        import torch

        from tspo.rollout.models import load_model
        from tspo.rollout.transformers_sampler import TransformersSampler

        self.codec.eos_token_ids = self.codec.closing_token_ids = frozenset()
        torch.set_num_threads(workload.threads)
        # float32 is what is trained, the sampler's own copy is in bfloat16
        sampler = TransformersSampler(
            load_model(workload.model).eval(),
            self.codec,
            rows=workload.concurrency,
            capacity=self.capacity(),
            dtype=torch.bfloat16,
        )
        limits = Limits(TURNS, workload.turn_tokens, workload.feedback_tokens, self.capacity(), workload.top_k)
        self._loop = AgentLoop(_Scripted(sampler, workload), self.codec, self.retriever, limits)

    def rollout(self, episodes: Sequence[int], seed: int) -> list[Read]:
        """See `Engine`."""
        requests = [
            Request(
                self.workload.question(episode), str(episode // self.workload.group), str(episode), f"{seed}/{episode}"
            )
            for episode in episodes
        ]
        done = []
        for trajectory in self._loop.rollout(requests):
            assert trajectory.prompt_token_ids is not None
            read = Read(len(trajectory.prompt_token_ids), logprobs=[])
            for turn in trajectory.turns:
                read.sampled_tokens += len(turn.token_ids or [])
                read.logprobs = [*(read.logprobs or []), *(turn.logprobs or [])]
                if turn.feedback is not None:
                    read.feedback.append(turn.feedback)
                    read.feedback_tokens += len(turn.feedback_token_ids or [])
            done.append(read)
        return done


@dataclass(frozen=True, slots=True)
class _Scripted:
    """A sampler whose seeds are ROUND/EPISODE."""

    sampler: Sampler
    workload: Workload

    @asynccontextmanager
    async def session(self, seed: str) -> AsyncIterator[_ScriptedSession]:
        queries = self.workload.queries(int(seed.partition("/")[2]))
        texts = [f"<search>{query}</search>" for query in queries] + ["<answer></answer>"]
        async with self.sampler.session(seed) as session:
            yield _ScriptedSession(session, texts)


@dataclass(slots=True)
class _ScriptedSession:
    """Samples as it is, and says that it sampled the next of `texts`."""

    session: Session
    texts: list[str]

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        sampled = await self.session.sample(new_token_ids, max_tokens)
        return replace(sampled, text=self.texts.pop(0))
