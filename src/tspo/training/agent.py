"""A policy ready to answer questions: model, tokenizer and retriever from a run's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop
from tspo.rollout.transformers_sampler import TransformersSampler

_MINIMUM_ROOM = 16
"""Tokens that a prompt must leave for everything else."""


def agent_loop(
    model: PreTrainedModel, codec: Codec, retriever: Retriever, config: RunConfig, *, temperature: float
) -> AgentLoop:
    """The agent loop that evaluates `model` as `config` says."""
    sampler = TransformersSampler(
        model,
        codec,
        rows=config.evaluation.batch or config.rollout.concurrency,
        capacity=config.rollout.max_total_tokens,
        temperature=temperature,
        dtype=sampling_dtype(config),
    )
    return AgentLoop(sampler, codec, retriever, config.rollout.limits())


def sampling_dtype(config: RunConfig) -> torch.dtype | None:
    """The precision that the configuration asks sampling to have; None is the model's own."""
    return None if config.rollout.dtype is None else getattr(torch, config.rollout.dtype)


def device_of(config: RunConfig) -> torch.device:
    """The device that the configuration asks for."""
    return torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")


def check_prompts_fit(codec: Codec, questions: list[str], max_total_tokens: int) -> None:
    """Raise BadInput where a prompt leaves no room in `max_total_tokens`."""
    for question in questions:
        length = len(codec.prompt(question))
        if length + _MINIMUM_ROOM > max_total_tokens:
            raise BadInput(
                f"rollout.max_total_tokens: {max_total_tokens} leaves no room after the {length} tokens of the "
                f"prompt that asks {question[:60]!r}; raise it"
            )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers' own bars and advice off the screen while the block runs."""
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(verbosity)
