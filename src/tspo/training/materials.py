"""What a run reads: questions, passages, and the tokenizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tspo.cache_folder import cache_dir
from tspo.config import DataSection, RunConfig, WorldSection
from tspo.credit import CreditConfig
from tspo.datasets.prepared import question_files
from tspo.datasets.questions import Question, read_questions
from tspo.datasets.supporting_passages import with_supporting_passages
from tspo.datasets.world.files import WorldFiles, world_files
from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.retrieval.base import Retriever
from tspo.rewards.in_python import check_known
from tspo.rollout.codec import Codec
from tspo.training.agent import check_positions, check_prompts_fit, codec_of, sampler_kind
from tspo.training.retriever import retriever_of
from tspo.trajectory import write_json_line


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
class Given:
    """What a Python program gives a run in place of files; without a retriever the settings name one."""

    train: Sequence[Question]
    test: Sequence[Question]
    retriever: Retriever | None = None


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files that a run reads."""

    train: Sequence[Path]
    test: Sequence[Path]
    corpus: Path | None


def read_materials(config: RunConfig, given: Given | None = None, *, training: bool = True) -> Materials:
    """Read and check all input of a run, without `training` only what an evaluation needs; take what is `given`.

    Raises BadInput before anything is written.
    """
    sampler_kind(config)
    credit = config.credit.to_config()
    if training and credit.needs_critic:
        raise BadInput(f"credit.algorithm: {credit.algorithm} needs a critic, which only verl has here; --engine verl")
    if given is None:
        if training:
            check_known(credit.reward_name)
        files = data_files(config.data, training=training)
        test = read_questions(files.test) if files.test else []
        given, corpus = Given(training_questions(files, credit), test), files.corpus
    else:
        corpus = None
    retriever = given.retriever if given.retriever is not None else retriever_of(config.rollout, corpus)
    codec = codec_of(config)
    check_positions(config)
    check_prompts_fit(codec, [q.question for q in (*given.train, *given.test)], config.rollout.max_total_tokens)
    return Materials([*given.train], [*given.test], retriever, codec, corpus)


def keep_questions(given: Given, data: DataSection, *, resume: bool) -> None:
    """Write the questions to the files that the settings name; raises BadInput where the run to resume had others."""
    for questions, paths in ((given.train, data.train), (given.test, data.test)):
        for path in paths:
            lines = io.StringIO()
            for question in questions:
                write_json_line(asdict(question), lines)
            if resume and path.is_file():
                if path.read_text(encoding="utf-8") != lines.getvalue():
                    raise BadInput(
                        f"{path}: the run to resume had these questions; give the same, or another output_dir"
                    )
                continue
            with atomic_write(path) as stream:
                stream.write(lines.getvalue())


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
