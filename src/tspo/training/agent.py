"""A policy ready to answer questions: model, tokenizer and retriever from a run's configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop
from tspo.rollout.models import end_token_ids, load_model, load_tokenizer, resolve_model
from tspo.rollout.sampler import Sampler, SamplingOptions
from tspo.rollout.transformers_sampler import TransformersSampler

_MINIMUM_ROOM = 16
"""Tokens that a prompt must leave for everything else."""


@contextmanager
def agent_loop(
    policy: PreTrainedModel | str, codec: Codec, retriever: Retriever, config: RunConfig, *, temperature: float
) -> Iterator[AgentLoop]:
    """The agent loop that evaluates `policy` as `config` says."""
    rows = config.evaluation.batch or config.rollout.concurrency
    sampler = make_sampler(policy, codec, config, rows=rows, temperature=temperature)
    try:
        yield AgentLoop(sampler, codec, retriever, config.rollout.limits())
    finally:
        sampler.close()


def make_sampler(
    policy: PreTrainedModel | str, codec: Codec, config: RunConfig, *, rows: int, temperature: float
) -> Sampler:
    """The sampler that `config` asks for; `policy` is a model, whose weights it can take over, or the name of one.

    Raises BadInput where it cannot be had.
    """
    kind = sampler_kind(config)
    capacity = config.rollout.max_total_tokens
    dtype = sampling_dtype(config)
    sampling = SamplingOptions(temperature, **config.rollout.sampling.model_dump())
    if kind == "openai":
        if not isinstance(policy, str):
            check_trainable(config)
        from tspo.rollout.openai_sampler import OpenAISampler

        assert config.rollout.server is not None
        server = config.rollout.server.model_dump()
        return OpenAISampler(codec, rows=rows, capacity=capacity, sampling=sampling, **server)
    if kind == "vllm":
        from tspo.rollout.vllm_sampler import VLLMSampler

        return VLLMSampler(
            resolve_model(policy) if isinstance(policy, str) else policy,
            codec,
            rows=rows,
            capacity=capacity,
            sampling=sampling,
            dtype=dtype or (torch.float32 if isinstance(policy, str) else policy.dtype),
            engine=config.rollout.vllm,
        )
    model = load_model(policy).eval() if isinstance(policy, str) else policy
    return TransformersSampler(
        model.to(device_of(config)), codec, rows=rows, capacity=capacity, sampling=sampling, dtype=dtype
    )


def codec_of(config: RunConfig) -> Codec:
    """The codec of the model's tokenizer; a server that is asked in messages has its own chat template."""
    server = config.rollout.server
    asked_in_messages = server is not None and server.chat
    tokenizer = load_tokenizer(config.model)
    ends = end_token_ids(config.model, tokenizer)
    return Codec(tokenizer, config.rollout.prompt, chat_template=not asked_in_messages, end_token_ids=ends)


def sampler_kind(config: RunConfig) -> Literal["transformers", "vllm", "openai"]:
    """`rollout.sampler` with auto decided; raises BadInput for vllm where it is not installed."""
    kind = config.rollout.sampler
    installed = importlib.util.find_spec("vllm") is not None
    if kind == "auto":
        return "vllm" if installed and device_of(config).type == "cuda" else "transformers"
    if kind == "vllm" and not installed:
        raise BadInput("rollout.sampler: vllm is not installed; pip install 'tspo[vllm]', or say transformers")
    return kind


def check_trainable(config: RunConfig) -> None:
    """Raise BadInput where the sampler cannot follow a policy that learns."""
    if sampler_kind(config) == "openai":
        raise BadInput("rollout.sampler: openai is for tspo evaluate; train with transformers or vllm")


def sampling_dtype(config: RunConfig) -> torch.dtype | None:
    """The precision that the configuration asks sampling to have; None is the model's own."""
    return None if config.rollout.dtype is None else getattr(torch, config.rollout.dtype)


def device_of(config: RunConfig) -> torch.device:
    """The device that the configuration asks for."""
    return torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")


def check_positions(config: RunConfig) -> None:
    """Raise BadInput where a trajectory may have more tokens than the model has a table of positions for.

    Rotary positions go on without end, if not as well as where the model was trained.
    """
    if sampler_kind(config) == "openai":
        return
    try:
        of_model = AutoConfig.from_pretrained(resolve_model(config.model), trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError):  # loading the model says it better
        return
    positions = getattr(of_model, "max_position_embeddings", None)
    is_rotary = any(getattr(of_model, name, None) for name in ("rope_parameters", "rope_scaling", "rope_theta"))
    if is_rotary or not isinstance(positions, int) or positions < 1:
        return
    if config.rollout.max_total_tokens > positions:
        raise BadInput(
            f"rollout.max_total_tokens: {config.rollout.max_total_tokens} tokens are more than the {positions} "
            f"positions that {config.model} has; lower it"
        )


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
