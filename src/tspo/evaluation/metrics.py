"""What trajectories score, averaged over questions, with the uncertainty of that average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspo.errors import BadInput
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import exact_match, f1
from tspo.trajectory import Group, Trajectory, group_trajectories

_BLOCK = 4_000_000  # resampled counts in memory at once, 8 bytes each


@dataclass(frozen=True, slots=True)
class TrajectoryScores:
    """What one trajectory scores; every field is averaged on its own."""

    exact_match: float
    """1.0 or 0.0."""
    f1: float
    """Token F1 in [0, 1]."""
    answer_in_feedback: float
    """1.0 if some feedback holds a golden answer, else 0.0."""
    turns: float
    searches: float
    """Searches that were run."""
    search_share: float
    """The share of turns in which the policy asked for a search, run or not."""


METRICS = tuple(field.name for field in fields(TrajectoryScores))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """The scores of one set of questions; `metrics` has the names in METRICS."""

    questions: int
    trajectories: int
    metrics: dict[str, Estimate]
    stop_reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of all questions, and of each data source by name where trajectories tell theirs."""

    overall: SourceSummary
    by_source: dict[str, SourceSummary]


def score_trajectory(trajectory: Trajectory) -> TrajectoryScores:
    """Score one trajectory against its own golden answers; no answer earns 0."""
    turns, golden_answers = trajectory.turns, trajectory.golden_answers
    feedbacks = [turn.feedback for turn in turns]
    return TrajectoryScores(
        exact_match=exact_match(trajectory.answer, golden_answers),
        f1=f1(trajectory.answer, golden_answers),
        answer_in_feedback=float(first_occurrence(feedbacks, golden_answers) is not None),
        turns=float(len(turns)),
        searches=float(sum(feedback is not None for feedback in feedbacks)),
        search_share=sum(turn.query is not None for turn in turns) / len(turns),
    )


def summarize(trajectories: Sequence[Trajectory]) -> Summary:
    """Means over questions (a question's trajectories are averaged first) with 95 % intervals.

    The data source is `extra["data_source"]`. Raises BadInput where there are no trajectories.
    """
    if not trajectories:
        raise BadInput("no trajectories to score; give at least one")
    by_source: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if isinstance(source := trajectory.extra.get("data_source"), str):
            by_source.setdefault(source, []).append(trajectory)
    return Summary(
        overall=_summarize(trajectories),
        by_source={source: _summarize(members) for source, members in sorted(by_source.items())},
    )


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of the mean of `values` (N,), one value a question.

    Trajectories of one question are not independent: give their mean, not each of them. Raises
    ValueError where there is no value, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError("values must be a non-empty, one-dimensional array of finite numbers")
    # Drawing how often each distinct value occurs is the same bootstrap, and scores repeat a great deal.
    distinct, counts = np.unique(array, return_counts=True)
    if distinct.size == 1:
        return float(distinct[0]), float(distinct[0])
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, _BLOCK // distinct.size)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = generator.multinomial(array.size, counts / array.size, size=size)
        means[start : start + size] = drawn @ distinct / array.size
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _summarize(trajectories: Sequence[Trajectory]) -> SourceSummary:
    per_question = np.array([question_means(group) for group in group_trajectories(trajectories)])
    return SourceSummary(
        questions=len(per_question),
        trajectories=len(trajectories),
        metrics={
            name: Estimate(float(column.mean()), *bootstrap_interval(column))
            for name, column in zip(METRICS, per_question.T, strict=True)
        },
        stop_reasons=dict(Counter(str(trajectory.stop_reason) for trajectory in trajectories).most_common()),
    )


def question_means(group: Group) -> NDArray[np.float64]:
    """The mean of each of METRICS over one question's trajectories, (len(METRICS),)."""
    scores = [astuple(score_trajectory(trajectory)) for trajectory in group.trajectories]
    means: NDArray[np.float64] = np.mean(scores, axis=0)
    return means
