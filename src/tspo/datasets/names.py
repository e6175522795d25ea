"""Data sets by name: `nq`, `hotpotqa:dev`, and `benchmarks` for the seven together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tspo.datasets.benchmarks import BENCHMARKS, SEVEN, SUITE, Benchmark
from tspo.errors import BadInput

Purpose = Literal["train", "test"]

_NAME = re.compile(r"[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)?")


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a data set that goes by name."""

    benchmark: Benchmark
    split: str

    def __str__(self) -> str:
        """As it is asked for."""
        return f"{self.benchmark.name}:{self.split}"


def is_name(path: str | Path) -> bool:
    """Whether this is a data set's name and no path: a word, with at most one colon. `./nq` is a path."""
    return _NAME.fullmatch(str(path)) is not None


def means_a_name(text: str, folder: Path) -> bool:
    """Whether `text` is to be read as a data set's name: one that there is, or a word that is no file in `folder`."""
    return is_name(text) and (text.partition(":")[0] in (*BENCHMARKS, SUITE) or not (folder / text).is_file())


def question_splits(names: Iterable[str], purpose: Purpose) -> list[Split]:
    """The splits that `names` ask for; without `:split` the one to train on (purpose "train") or to evaluate on.

    Raises BadInput, with the nearest names, for one that there is not, and for one without such a split.
    """
    splits: list[Split] = []
    for text in names:
        if text == SUITE:
            if purpose == "train":
                raise BadInput(f"{SUITE}: are for evaluation; train on nq, hotpotqa, musique, .., or search-r1")
            splits += [_evaluation_split(BENCHMARKS[name]) for name in SEVEN]
            continue
        benchmark, split = find(text)
        if benchmark.kind != "questions":
            raise BadInput(f"{text}: holds no questions; it is for tspo data prepare")
        if split is None and purpose == "test":
            splits.append(_evaluation_split(benchmark))
        else:
            splits.append(Split(benchmark, check_split(benchmark, split or "train")))
    return splits


def find(text: str) -> tuple[Benchmark, str | None]:
    """The data set that `name` or `name:split` asks for, and the split; raises BadInput with the nearest names."""
    name, _, split = text.partition(":")
    if name not in BENCHMARKS:
        valid = [*BENCHMARKS, SUITE]
        near = difflib.get_close_matches(name.lower(), valid, n=2, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise BadInput(f"there is no data set {name!r}{hint} There are {', '.join(valid)}; a path needs a / or a .")
    return BENCHMARKS[name], split or None


def check_split(benchmark: Benchmark, split: str) -> str:
    """`split` if the data set has it; raises BadInput otherwise."""
    if split not in benchmark.files:
        raise BadInput(f"{benchmark.name}: has no {split!r}; it has {', '.join(benchmark.files)}")
    return split


def _evaluation_split(benchmark: Benchmark) -> Split:
    assert benchmark.evaluation is not None  # every set of questions has one
    return Split(benchmark, benchmark.evaluation)
