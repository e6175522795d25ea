"""What retrieval is measured on: real questions and passages where they are, and embedded worlds of any size."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo.datasets.corpus import normalise_title
from tspo.datasets.questions import Question, read_questions
from tspo.datasets.world.files import WorldSettings, world_files
from tspo.retrieval.quality import recall_at

WIKI_QA = Path(__file__).resolve().parents[1] / "../shared/data/wiki-qa"
SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1m": 1_000_000}
NAMES = ("wiki-qa", *SIZES)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A file of passages, and questions whose supporting titles are among them."""

    name: str
    path: Path
    questions: list[Question]

    @property
    def queries(self) -> list[str]:
        """The questions as they stand."""
        return [question.question for question in self.questions]


def arguments(description: str | None, corpora: str) -> argparse.ArgumentParser:
    """What every benchmark of retrieval takes: `corpora`, those measured unless others are named, and a cache."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", default=corpora, help=f"among {', '.join(NAMES)}")
    parser.add_argument("--cache", type=_folder, default=f"{tempfile.gettempdir()}/tspo-benchmarks")
    return parser


def _folder(text: str) -> Path:
    folder = Path(text)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def corpus(name: str, cache: Path) -> Corpus:
    """A corpus by its name in NAMES; worlds are made in `cache`, their questions have one hop."""
    if name not in NAMES:
        raise SystemExit(f"{name}: no such corpus; choose among: {', '.join(NAMES)}")
    if name in SIZES:
        world = world_files(WorldSettings(SIZES[name], 1, 300, (1,), 0), cache / "worlds")
        return Corpus(name, world.corpus, read_questions([world.test]))
    if not WIKI_QA.is_dir():
        raise SystemExit(f"wiki-qa: not found at {WIKI_QA.resolve()}; choose among: {', '.join(SIZES)}")
    return corpus_in(WIKI_QA)


def corpus_in(folder: Path) -> Corpus:
    """The corpus.jsonl of a folder, and the questions of its other files that name supporting titles."""
    paths = sorted(path for path in folder.glob("*.jsonl") if path.name != "corpus.jsonl")
    if not paths:
        raise SystemExit(f"{folder.resolve()}: no questions here; name a folder that holds them beside corpus.jsonl")
    questions = [question for question in read_questions(paths) if question.supporting_titles]
    return Corpus(folder.name, folder / "corpus.jsonl", questions)


def recall(questions: Sequence[Question], found: Sequence[Sequence[str]]) -> float:
    """The mean over questions of the share of supporting titles among the titles `found`."""
    shares = []
    for question, titles in zip(questions, found, strict=True):
        known, wanted = ([normalise_title(title) for title in some] for some in (titles, question.supporting_titles))
        shares.append(recall_at(known, wanted, len(known)))
    return sum(shares) / len(shares)
