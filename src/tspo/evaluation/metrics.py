"""What trajectories score, averaged over questions, with the uncertainty of that average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tspo.errors import BadInput
from tspo.evaluation.pass_at_k import pass_at_each_k
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import exact_match, f1, hotpot_f1, substring_match
from tspo.trajectory import Group, Trajectory

_BLOCK = 4_000_000  # resampled counts in memory at once, 8 bytes each


@dataclass(frozen=True, slots=True)
class TrajectoryScores:
    """What one trajectory scores; every field is averaged on its own."""

    exact_match: float
    """1.0 or 0.0."""
    f1: float
    """Token F1 in [0, 1], as SQuAD has it."""
    substring_match: float
    """1.0 if the answer contains a golden answer, else 0.0."""
    answer_in_feedback: float
    """1.0 if some feedback holds a golden answer, else 0.0."""
    turns: float
    searches: float
    """Searches that were run."""
    search_share: float
    """The share of turns in which the policy asked for a search, run or not."""
    tokens: float
    """Tokens that the policy sampled; NaN where they are not known."""
    hotpot_f1: float
    """Token F1 in [0, 1], as HotpotQA has it."""


FIRST_OCCURRENCE = "first_occurrence"
"""What a trajectory's `extra` has of its credit: the 0-based turn whose feedback first holds an answer, or None."""

_UNKNOWN = object()

METRICS = tuple(one.name for one in fields(TrajectoryScores))

ADDED = ("substring_match", "tokens", "hotpot_f1")
"""Those of METRICS that a summary may lack: of an earlier version, or of trajectories without tokens."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """The scores of one set of questions; `metrics` has the names in METRICS whose values are known."""

    questions: int
    trajectories: int
    metrics: dict[str, Estimate]
    stop_reasons: dict[str, int]
    pass_at: dict[int, Estimate] = field(default_factory=dict)
    """By k, up to the least number of trajectories that a question has; empty where that is 1."""

    @property
    def differs_by_hotpotqa(self) -> bool:
        """Whether F1 is another number by HotpotQA's script than by SQuAD's."""
        return self.metrics.get("hotpot_f1") != self.metrics.get("f1")


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of all questions, and of each data source by name and number of hops where trajectories tell theirs.

    `macro` is the mean over data sources, each counting alike; empty where there are fewer than two.
    """

    overall: SourceSummary
    by_source: dict[str, SourceSummary]
    by_hops: dict[int, SourceSummary] = field(default_factory=dict)
    macro: dict[str, Estimate] = field(default_factory=dict)

    def __str__(self) -> str:
        """The scores of all questions with their 95 % intervals, a line each."""
        lines = [f"{self.overall.questions} questions, {self.overall.trajectories} trajectories"]
        for name, one in self.overall.metrics.items():
            if name != "hotpot_f1" or self.overall.differs_by_hotpotqa:
                lines.append(f"{name:<18} {one.mean:6.3f} [{one.low:.3f}, {one.high:.3f}]")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Scored:
    """What is kept of a trajectory to summarise it."""

    group_id: str
    source: str | None
    hops: int | None
    stop_reason: str
    scores: TrajectoryScores


def score_trajectory(trajectory: Trajectory) -> TrajectoryScores:
    """Score one trajectory against its own golden answers; no answer earns 0.

    Where the answer first occurred is what the trajectory says of it, by the rule of the run that it is from; else the
    default rule's.
    """
    turns, golden_answers = trajectory.turns, trajectory.golden_answers
    feedbacks = [turn.feedback for turn in turns]
    first = trajectory.extra.get(FIRST_OCCURRENCE, _UNKNOWN)
    if first is not None and type(first) is not int:
        first = first_occurrence(feedbacks, golden_answers)
    return TrajectoryScores(
        exact_match=exact_match(trajectory.answer, golden_answers),
        f1=f1(trajectory.answer, golden_answers),
        substring_match=substring_match(trajectory.answer, golden_answers),
        answer_in_feedback=float(first is not None),
        turns=float(len(turns)),
        searches=float(sum(feedback is not None for feedback in feedbacks)),
        search_share=sum(turn.query is not None for turn in turns) / len(turns),
        tokens=float(sum(np.nan if turn.token_ids is None else len(turn.token_ids) for turn in turns)),
        hotpot_f1=hotpot_f1(trajectory.answer, golden_answers),
    )


def scored(trajectory: Trajectory) -> Scored:
    """A trajectory's scores, and where it belongs: `extra["data_source"]` and `extra["hops"]`."""
    source, hops = trajectory.extra.get("data_source"), trajectory.extra.get("hops")
    return Scored(
        group_id=trajectory.group_id,
        source=source if isinstance(source, str) else None,
        hops=hops if type(hops) is int else None,
        stop_reason=str(trajectory.stop_reason),
        scores=score_trajectory(trajectory),
    )


def summarize(trajectories: Iterable[Trajectory]) -> Summary:
    """Means over questions (a question's trajectories are averaged first) with 95 % intervals.

    Trajectories are read one at a time and not kept. Raises BadInput where there are none.
    """
    everything = [scored(trajectory) for trajectory in trajectories]
    if not everything:
        raise BadInput("no trajectories to score; give at least one")
    by_source: dict[str, list[Scored]] = {}
    by_hops: dict[int, list[Scored]] = {}
    for one in everything:
        if one.source is not None:
            by_source.setdefault(one.source, []).append(one)
        if one.hops is not None:
            by_hops.setdefault(one.hops, []).append(one)
    return Summary(
        overall=_summarize(everything),
        by_source={source: _summarize(members) for source, members in sorted(by_source.items())},
        by_hops={hops: _summarize(members) for hops, members in sorted(by_hops.items())},
        macro=_macro([_question_table(members) for members in by_source.values()]) if len(by_source) > 1 else {},
    )


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of the mean of `values` (N,), one value a question.

    Trajectories of one question are not independent: give their mean, not each of them. Raises
    ValueError where there is no value, or one is not finite.
    """
    low, high = np.quantile(bootstrap_means(values, samples, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_means(values: ArrayLike, samples: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """The means (samples,) of `values` (N,) drawn anew; raises ValueError as `bootstrap_interval`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError("values must be a non-empty, one-dimensional array of finite numbers")
    # Drawing how often each distinct value occurs is the same bootstrap, and scores repeat a great deal.
    distinct, counts = np.unique(array, return_counts=True)
    if distinct.size == 1:
        return np.full(samples, distinct[0])
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    block = max(1, _BLOCK // distinct.size)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = generator.multinomial(array.size, counts / array.size, size=size)
        means[start : start + size] = drawn @ distinct / array.size
    return means


def macro_estimate(columns: Sequence[NDArray[np.float64]]) -> Estimate:
    """The mean of the columns' means, one column (Q_s,) a data source; each is resampled on its own."""
    resampled = np.mean([bootstrap_means(column, seed=seed) for seed, column in enumerate(columns)], axis=0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(np.mean([column.mean() for column in columns])), float(low), float(high))


def _summarize(members: Sequence[Scored]) -> SourceSummary:
    table = _question_table(members)
    tries: dict[str, list[float]] = {}
    for one in members:
        tries.setdefault(one.group_id, []).append(one.scores.exact_match)
    return SourceSummary(
        questions=len(table),
        trajectories=len(members),
        metrics={
            name: Estimate(float(column.mean()), *bootstrap_interval(column))
            for name, column in zip(METRICS, table.T, strict=True)
            if np.isfinite(column).all()
        },
        stop_reasons=dict(Counter(one.stop_reason for one in members).most_common()),
        pass_at={
            k: Estimate(float(column.mean()), *bootstrap_interval(column))
            for k, column in pass_at_each_k([(len(one), int(sum(one))) for one in tries.values()]).items()
        },
    )


def _macro(tables: Sequence[NDArray[np.float64]]) -> dict[str, Estimate]:
    columns = {name: [table[:, place] for table in tables] for place, name in enumerate(METRICS)}
    return {
        name: macro_estimate(parts)
        for name, parts in columns.items()
        if all(np.isfinite(column).all() for column in parts)
    }


def _question_table(members: Sequence[Scored]) -> NDArray[np.float64]:
    """Each question's mean of each of METRICS, (Q, len(METRICS))."""
    questions: dict[str, list[tuple[float, ...]]] = {}
    for one in members:
        questions.setdefault(one.group_id, []).append(astuple(one.scores))
    return np.array([np.mean(scores, axis=0) for scores in questions.values()])


def question_means(group: Group) -> NDArray[np.float64]:
    """The mean of each of METRICS over one question's trajectories, (len(METRICS),)."""
    scores = [astuple(score_trajectory(trajectory)) for trajectory in group.trajectories]
    means: NDArray[np.float64] = np.mean(scores, axis=0)
    return means
