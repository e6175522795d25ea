"""The policy and the passages that a person asks, ready to answer one question after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tspo.ask.sources import Sources
from tspo.ask.teller import Ending, Teller
from tspo.config import RunConfig
from tspo.datasets.questions import Question, read_questions
from tspo.errors import BadInput
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop, Request
from tspo.training.agent import check_positions, check_prompts_fit, codec_of, make_sampler
from tspo.training.materials import corpus_of, data_files
from tspo.training.retriever import retriever_of


class Agent:
    """Answers questions with one policy; each starts afresh, and the same question has the same answer."""

    def __init__(self, loop: AgentLoop, config: RunConfig) -> None:
        self._loop = loop
        self._config = config

    @property
    def codec(self) -> Codec:
        """The policy's tokenizer."""
        return self._loop.codec

    def answer(self, question: str, teller: Teller) -> None:
        """Run one episode and tell of it.

        Raises BadInput for a question that is empty or too long, and where the sampler or the retriever is gone.
        """
        if not question.strip():
            raise BadInput("the question is empty; ask something")
        check_prompts_fit(self.codec, [question], self._config.rollout.max_total_tokens)
        sources = Sources(self.codec)
        watcher = teller.begin(question, sources)
        asked = Question("asked", question, ("",), "asked")
        started = time.perf_counter()
        try:
            [trajectory] = self._loop.rollout([Request(asked, "asked", "asked", f"{self._config.seed}/ask", watcher)])
        except KeyboardInterrupt:
            teller.stopped()
            raise
        seconds = time.perf_counter() - started
        credit = self._config.credit.to_config()
        holding = sources.holding(trajectory.answer, credit.match, credit.ignore)
        teller.end(Ending(trajectory, holding, len(sources.read), seconds))


@contextmanager
def open_agent(config: RunConfig) -> Iterator[Agent]:
    """The policy, tokenizer and retriever of `config`; raises BadInput where one of them cannot be had."""
    retriever = retriever_of(config.rollout, corpus_of(config.data))
    codec = codec_of(config)
    check_positions(config)
    sampler = make_sampler(config.model, codec, config, rows=1, temperature=config.evaluation.temperature)
    try:
        yield Agent(AgentLoop(sampler, codec, retriever, config.rollout.limits()), config)
    finally:
        sampler.close()


def example_question(config: RunConfig) -> str | None:
    """A question that nobody was trained on and the passages of `config` answer; None where none is known."""
    if config.rollout.retriever is not None:
        return None
    try:
        files = data_files(config.data, training=False)
        return read_questions(files.test[:1])[0].question if files.test else None
    except BadInput:  # the files of a run may be gone, or not be prepared here
        return None
