"""What a run reads: questions, passages, and the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo.cache_folder import cache_dir
from tspo.config import DataSection, RunConfig, WorldSection
from tspo.credit import CreditConfig
from tspo.datasets.prepared import question_files
from tspo.datasets.questions import Question, read_questions
from tspo.datasets.supporting_passages import with_supporting_passages
from tspo.datasets.world.files import WorldFiles, world_files
from tspo.errors import BadInput
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.training.agent import check_prompts_fit, codec_of, sampler_kind
from tspo.training.retriever import retriever_of


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run reads: questions to train on and to test on, a retriever, and the tokenizer's codec."""

    train: list[Question]
    test: list[Question]
    retriever: Retriever
    codec: Codec
    corpus: Path | None
    """The passages that BM25 searches; None where the settings name a retriever and no corpus."""


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files that a run reads."""

    train: Sequence[Path]
    test: Sequence[Path]
    corpus: Path | None


def read_materials(config: RunConfig, *, training: bool = True) -> Materials:
    """Read and check all input of a run, without `training` only what an evaluation needs.

    Raises BadInput before anything is written.
    """
    sampler_kind(config)
    credit = config.credit.to_config()
    if training and credit.needs_critic:
        raise BadInput(f"credit.algorithm: {credit.algorithm} needs a critic, which only verl has here; --engine verl")
    files = data_files(config.data, training=training)
    train = training_questions(files, credit)
    test = read_questions(files.test) if files.test else []
    retriever = retriever_of(config.rollout, files.corpus)
    codec = codec_of(config)
    check_prompts_fit(codec, [q.question for q in (*train, *test)], config.rollout.max_total_tokens)
    return Materials(train, test, retriever, codec, files.corpus)


def training_questions(files: DataFiles, credit: CreditConfig) -> list[Question]:
    """The questions to train on, with their golden passages where the reward needs them."""
    train = read_questions(files.train) if files.train else []
    return with_supporting_passages(train, files.corpus) if credit.rewards.needs == "passages" else train


def data_files(data: DataSection, *, training: bool = True) -> DataFiles:
    """The files that the settings name, or those of the embedded world, made now if they are not there yet.

    Without `training` none to train on. Raises BadInput for a data set that is asked for by name and is not prepared.
    """
    if data.world is not None:
        world = _made(data.world)
        test = [world.test] if data.world.test_questions else []
        return DataFiles([world.train] if training else [], test, world.corpus)
    train = question_files(data.train, "train") if training else []
    return DataFiles(train, question_files(data.test, "test"), data.corpus)


def corpus_of(data: DataSection) -> Path | None:
    """The passages alone: what questions there are does not matter."""
    return data.corpus if data.world is None else _made(data.world).corpus


def _made(world: WorldSection) -> WorldFiles:
    return world_files(world.to_settings(), cache_dir() / "worlds")
