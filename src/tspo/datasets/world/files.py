"""A world on disk, in the formats that every other corpus and question file has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tspo.datasets.world.facts import make_world
from tspo.datasets.world.passages import passages
from tspo.datasets.world.questions import MOST_HOPS, WorldQuestion, make_questions
from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.trajectory import write_json_line

_MADE_BY = 3
"""Goes up when the same settings make another world."""


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What a world is made from; the same settings make the same files."""

    passages: int = 2000
    train_questions: int = 600
    test_questions: int = 150
    hops: tuple[int, ...] = (1, 2, 3)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises BadInput for numbers that make no world."""
        if not self.hops or not set(self.hops) <= set(range(1, MOST_HOPS + 1)) or len(set(self.hops)) < len(self.hops):
            raise BadInput(f"hops: expected some of 1 to {MOST_HOPS}, each once, got {list(self.hops)}")
        if self.train_questions < 1 or self.test_questions < 0:
            raise BadInput("a world needs at least one training question, and no fewer than 0 test questions")


@dataclass(frozen=True, slots=True)
class WorldFiles:
    """Where a world's passages and questions are."""

    corpus: Path
    train: Path
    test: Path


def world_files(settings: WorldSettings, cache: Path) -> WorldFiles:
    """The files of the world that `settings` describe, made in `cache` when they are not there yet."""
    hops = "".join(map(str, settings.hops))
    name = f"{settings.passages}-{settings.train_questions}-{settings.test_questions}-{hops}-{settings.seed}"
    return write_world(settings, cache / f"world-{_MADE_BY}-{name}", again=False)


def write_world(settings: WorldSettings, folder: Path, *, again: bool = True) -> WorldFiles:
    """Write corpus.jsonl, train.jsonl and test.jsonl, and last settings.json, which says that they are whole.

    Without `again`, whole files are left as they are. Raises BadInput where the world is too small for so
    many questions, and where the folder cannot be written.
    """
    files = WorldFiles(folder / "corpus.jsonl", folder / "train.jsonl", folder / "test.jsonl")
    described = json.dumps(asdict(settings) | {"made_by": _MADE_BY}, indent=1) + "\n"
    whole = folder / "settings.json"
    if not again and whole.is_file() and whole.read_text(encoding="utf-8") == described:
        return files
    world = make_world(settings.passages, settings.seed)
    split = make_questions(world, settings.train_questions, settings.test_questions, settings.hops, settings.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole.unlink(missing_ok=True)
        _write_lines(files.corpus, ({"id": d.id, "contents": d.contents} for d in passages(world)))
        _write_lines(files.train, map(_question_to_json, split.train))
        _write_lines(files.test, map(_question_to_json, split.test))
        with atomic_write(whole) as stream:
            stream.write(described)
    except OSError as error:
        raise BadInput(f"{folder}: cannot write the world here ({error.strerror}); choose another folder") from None
    return files


def _question_to_json(made: WorldQuestion) -> dict[str, Any]:
    return asdict(made.question)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as stream:
        for line in lines:
            write_json_line(line, stream)
