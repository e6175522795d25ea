"""Episodes of the policy as it is now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from tspo.retrieval.base import Retriever
from tspo.rollout.batched_search import SearchLog
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.sampler import Sampler
from tspo.training.answer_scores import mean_log_probabilities
from tspo.training.update.scoring import evaluating
from tspo.training.whole_policy import WholePolicy
from tspo.trajectory import Trajectory

MakeSampler = Callable[[PreTrainedModel], Sampler]
"""Called with the policy, whose weights the sampler takes over at each refresh."""

OnEpisode = Callable[[int, int], None]
"""Called with (episodes that ended, episodes in all)."""


class PolicyRollout:
    """Runs episodes of one policy, over a sampler that is made at the first of them and closed by `close`.

    Of a policy that is spread over processes, `whole` is the copy that is sampled from.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        make_sampler: MakeSampler,
        codec: Codec,
        retriever: Retriever,
        limits: Limits,
        *,
        temperature: float = 1.0,
        whole: WholePolicy | None = None,
        on_episode: OnEpisode | None = None,
    ) -> None:
        self._policy = policy
        self._make_sampler = make_sampler
        self._codec = codec
        self._retriever = retriever
        self._limits = limits
        self._temperature = temperature
        self._whole = whole
        self._on_episode = on_episode
        self._sampler: Sampler | None = None

    @property
    def _sampled_from(self) -> PreTrainedModel:
        return self._policy if self._whole is None else self._whole.model

    def __call__(self, requests: Sequence[Request]) -> tuple[list[Trajectory], SearchLog]:
        """One trajectory per request, in their order, and how their searches went."""
        if self._whole is not None:
            self._whole.take_over(self._policy)
        if self._sampler is None:
            self._sampler = self._make_sampler(self._sampled_from)
        self._sampler.refresh()
        ended = 0

        def on_done(_: Trajectory) -> None:
            nonlocal ended
            ended += 1
            if self._on_episode is not None:
                self._on_episode(ended, len(requests))

        with evaluating(self._sampled_from):
            loop = AgentLoop(self._sampler, self._codec, self._retriever, self._limits)
            return loop.rollout(requests, on_done), loop.searches

    def answer_log_probabilities(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> list[float]:
        """For each prefix, the mean log-probability of its answer's tokens, at the sampling temperature."""
        with evaluating(self._sampled_from):
            return mean_log_probabilities(self._sampled_from, prefixes, answers, self._temperature)

    def close(self) -> None:
        """Give back what the sampler holds."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None
