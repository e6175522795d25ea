"""Two evaluations of the same questions, compared question by question: paired bootstrap and McNemar's test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspo.errors import BadInput
from tspo.evaluation.metrics import METRICS, Estimate, bootstrap_interval, macro_estimate, scored
from tspo.evaluation.places import TRAJECTORIES
from tspo.trajectory import read_records

COMPARED = ("exact_match", "f1", "substring_match", "answer_in_feedback", "searches")
"""Scores that are compared, by their names in TrajectoryScores."""


@dataclass(frozen=True, slots=True)
class ScoredQuestion:
    """A question's mean of each of METRICS, and how often it was tried."""

    question: str
    source: str
    tries: int
    means: NDArray[np.float64]

    def score(self, metric: str) -> float:
        """The mean of one metric."""
        return float(self.means[METRICS.index(metric)])


@dataclass(frozen=True, slots=True)
class McNemar:
    """Questions that only one of two runs has right, and the chance of so uneven a split were both alike."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True, slots=True)
class PairedSet:
    """How much the second of two runs is above the first on one set of questions.

    `mcnemar` is None where a question was tried more than once: its tries are not independent.
    """

    questions: int
    first: dict[str, float]
    second: dict[str, float]
    difference: dict[str, Estimate]
    mcnemar: McNemar | None


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """Two runs, by data source and over all questions; `macro` is the mean of the sources' differences."""

    questions: int
    left_out: int
    """Questions that only one of the two answered."""
    overall: PairedSet
    by_source: dict[str, PairedSet]
    macro: dict[str, Estimate]


def read_scored(place: Path) -> dict[str, ScoredQuestion]:
    """The questions of an evaluation's folder, or of a trajectory file, by id; raises BadInput."""
    path = place / TRAJECTORIES if place.is_dir() else place
    asked: dict[str, tuple[str, str]] = {}
    tries: dict[str, list[tuple[float, ...]]] = {}
    try:
        with path.open("rb") as stream:
            for _, trajectory in read_records(stream, str(path)):  # one at a time: a suite's tokens fill gigabytes
                one = scored(trajectory)
                asked.setdefault(one.group_id, (trajectory.question, one.source or ""))
                tries.setdefault(one.group_id, []).append(astuple(one.scores))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); name the folder of an evaluation") from None
    if not asked:
        raise BadInput(f"{path}: holds no trajectories")
    return {
        identifier: ScoredQuestion(question, source, len(tries[identifier]), np.mean(tries[identifier], axis=0))
        for identifier, (question, source) in asked.items()
    }


def compare_runs(first: Mapping[str, ScoredQuestion], second: Mapping[str, ScoredQuestion]) -> PairedRuns:
    """Compare two runs on the questions that both answered.

    Raises BadInput where there are none, or where one id stands for two questions.
    """
    both = sorted(first.keys() & second.keys())
    if not both:
        raise BadInput("the two evaluations have no question in common; compare runs on the same data sets")
    for identifier in both:
        if first[identifier].question != second[identifier].question:
            raise BadInput(
                f"question {identifier!r} is another one in the second evaluation; evaluate on the same files"
            )
    by_source: dict[str, list[str]] = {}
    for identifier in both:
        by_source.setdefault(first[identifier].source, []).append(identifier)
    gaps = {
        source: {metric: _gaps(first, second, ids, metric) for metric in COMPARED} for source, ids in by_source.items()
    }
    return PairedRuns(
        questions=len(both),
        left_out=len(first.keys() ^ second.keys()),
        overall=_paired(first, second, both),
        by_source={source: _paired(first, second, ids) for source, ids in sorted(by_source.items())},
        macro=(
            {metric: macro_estimate([part[metric] for part in gaps.values()]) for metric in COMPARED}
            if len(by_source) > 1
            else {}
        ),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2) (McNemar, 1947)."""
    total, least = only_first + only_second, min(only_first, only_second)
    term, below = 1, 0  # C(n, k), and the sum of those up to k
    for k in range(least + 1):
        below += term
        term = term * (total - k) // (k + 1)
    return min(1.0, 2 * below / (1 << total))  # Python divides whole numbers of any size correctly


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _paired(first: Mapping[str, ScoredQuestion], second: Mapping[str, ScoredQuestion], ids: Sequence[str]) -> PairedSet:
    difference = {}
    for metric in COMPARED:
        gap = _gaps(first, second, ids, metric)
        difference[metric] = Estimate(float(gap.mean()), *bootstrap_interval(gap))
    return PairedSet(
        questions=len(ids),
        first=_means(first, ids),
        second=_means(second, ids),
        difference=difference,
        mcnemar=_mcnemar(first, second, ids),
    )


def _means(run: Mapping[str, ScoredQuestion], ids: Sequence[str]) -> dict[str, float]:
    return {metric: float(np.mean([run[identifier].score(metric) for identifier in ids])) for metric in COMPARED}


def _gaps(
    first: Mapping[str, ScoredQuestion], second: Mapping[str, ScoredQuestion], ids: Sequence[str], metric: str
) -> NDArray[np.float64]:
    return np.array([second[identifier].score(metric) - first[identifier].score(metric) for identifier in ids])


def _mcnemar(
    first: Mapping[str, ScoredQuestion], second: Mapping[str, ScoredQuestion], ids: Sequence[str]
) -> McNemar | None:
    if any(run[identifier].tries > 1 for run in (first, second) for identifier in ids):
        return None
    right = [(first[identifier].score("exact_match"), second[identifier].score("exact_match")) for identifier in ids]
    only_first, only_second = right.count((1.0, 0.0)), right.count((0.0, 1.0))
    return McNemar(only_first, only_second, mcnemar_p(only_first, only_second))
