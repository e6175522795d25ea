"""What has to be there before anything is loaded, said in one screen."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from tspo.config import RunConfig
from tspo.datasets.questions import Question, read_questions
from tspo.errors import BadInput
from tspo.training.agent import check_positions, check_prompts_fit, codec_of
from tspo.training.materials import DataFiles, training_questions
from tspo.training.retriever import retriever_of
from tspo.training.verl.cluster import gpu_memories, nodes_with_gpus
from tspo.training.verl.memory import estimate_memory, shape_of
from tspo.training.verl.questions import write_rows
from tspo.training.verl.translation import row_files
from tspo.training.verl.versions import check_verl


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a run, read and checked."""

    train: list[Question]
    test: list[Question]

    def write(self, config: RunConfig) -> None:
        """Write them as verl's data sets."""
        train, test = row_files(config)
        train.parent.mkdir(parents=True, exist_ok=True)
        write_rows(self.train, train)
        if self.test:
            write_rows(self.test, test)


@dataclass(slots=True)
class Preflight:
    """Checks, one after another; one that fails keeps no other from being made."""

    lines: list[str] = field(default_factory=list)
    missing: int = 0

    def check(self, name: str, work: Callable[[], str]) -> bool:
        """Note what `work` finds; a BadInput of it is something missing. Returns whether it is there."""
        try:
            # libraries log, warn and print on the way
            with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
                self.lines.append(f"ok       {name}: {work()}")
            return True
        except BadInput as error:
            self.lines.append(f"MISSING  {name}: {error}")
            self.missing += 1
            return False


def check_ready(config: RunConfig, files: DataFiles, translated: Any, console: Console) -> Questions:
    """Make all checks, print them, and return the questions.

    Raises BadInput where anything is missing. Neither a model nor an engine is loaded; a Ray elsewhere is joined.
    """
    questions: dict[str, list[Question]] = {}
    preflight = Preflight()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        preflight.check("engine", lambda: _engine(config))
        preflight.check("settings", lambda: _settings(translated))
        preflight.check("questions", lambda: _questions(config, files, questions))
        model = preflight.check("model", lambda: _model(config, questions))
        preflight.check("retriever", lambda: _retriever(config, files))
        preflight.check("GPUs", lambda: _gpus(config))
        if model and config.device != "cpu":
            preflight.check("memory of a GPU", lambda: _memory(config))
    finally:
        logging.disable(before)
    for line in preflight.lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if preflight.missing:
        raise BadInput(f"{preflight.missing} of the above missing; nothing was started")
    return Questions(questions["train"], questions["test"])


def _engine(config: RunConfig) -> str:
    said = f"verl {check_verl()}"
    if importlib.util.find_spec("transfer_queue") is None:
        raise BadInput(f"{said} needs TransferQueue; pip install 'tspo[verl]'")
    if importlib.util.find_spec("trl") is not None:
        raise BadInput(f"{said} does not work beside TRL 1; give it an environment without trl")
    if config.device == "cpu":
        return f"{said} without a GPU: FSDP on gloo, sampling with tspo's transformers sampler"
    if importlib.util.find_spec("vllm") is None:
        raise BadInput(f"{said} samples with vllm, which is not installed; pip install 'verl[vllm]'")
    return f"{said}, vllm"


def _settings(translated: Any) -> str:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        validate_config(translated, need_reference_policy(translated), need_critic(translated))
    except Exception as error:  # verl's checks raise what they like
        raise BadInput(f"verl refuses them: {' '.join(str(error).split()) or type(error).__name__}") from None
    return "verl accepts them"


def _questions(config: RunConfig, files: DataFiles, questions: dict[str, list[Question]]) -> str:
    train = training_questions(files, config.credit.to_config())
    test = read_questions(files.test) if files.test else []
    if len(train) < (groups := config.training.groups_per_step):
        raise BadInput(f"{len(train)} to train on, but a step takes training.groups_per_step={groups}")
    questions.update(train=train, test=test)
    return f"{len(train)} to train on, {len(test)} to test on"


def _model(config: RunConfig, questions: dict[str, list[Question]]) -> str:
    codec = codec_of(config)
    asked = [question.question for part in questions.values() for question in part]
    check_positions(config)
    check_prompts_fit(codec, asked, config.rollout.max_total_tokens)
    return f"{config.model}; every prompt fits in {config.rollout.max_total_tokens} tokens"


def _retriever(config: RunConfig, files: DataFiles) -> str:
    retriever_of(config.rollout, files.corpus).search(["What is the capital of France?"], config.rollout.top_k)
    return f"{config.rollout.retriever or f'BM25 over {files.corpus}'}; it answers"


def _gpus(config: RunConfig) -> str:
    verl = config.verl
    asked = f"{verl.nodes} node(s) of {verl.gpus_per_node}"
    if config.device == "cpu":
        if verl.ray != "local":
            raise BadInput(f"verl.ray: {verl.ray} cannot be joined without GPUs; say verl.ray=local")
        return f"none needed; {asked} training processes here"
    nodes = nodes_with_gpus(config)
    if sum(count >= verl.gpus_per_node for count in nodes) < verl.nodes:
        there = ", ".join(str(count) for count in nodes) or "none"
        raise BadInput(
            f"{asked} asked for, but there are: {there} (a node each); set verl.nodes and verl.gpus_per_node"
        )
    return f"{asked}"


def _memory(config: RunConfig) -> str:
    size = min(gpu_memories(), default=config.verl.gpu_memory)
    try:
        shape = shape_of(config.model)
    except (OSError, ValueError) as error:
        raise BadInput(f"no estimate without the model's configuration ({str(error).splitlines()[0]})") from None
    estimate = estimate_memory(config, shape, size)
    said = (
        f"{shape.parameters / 1e9:.2f}e9 parameters; about {estimate.training:.0f} GB to train, "
        f"{estimate.sampling:.0f} GB to sample, of {size:.0f} GB"
    )
    if estimate.training > size:
        raise BadInput(f"{said}; lower verl.tokens_per_gpu, or take more GPUs")
    if estimate.sampling > size:
        raise BadInput(f"{said}; set verl.offload=true, or lower verl.gpu_memory_utilization")
    if estimate.sampling_least > estimate.sampling_share:
        raise BadInput(
            f"{said}; vLLM needs {estimate.sampling_least:.0f} GB for weights and one episode; raise "
            "verl.gpu_memory_utilization or verl.tensor_parallel"
        )
    return said
