"""What a comparison of arms over seeds computes: learning curves, steps to a target, and paired differences.

Notation: S seeds, Q questions, T steps, B resamples. Every interval is the 95 % percentile bootstrap interval, from a
seeded generator, so that the same numbers give the same interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from tspo.evaluation.metrics import Estimate

SMOOTHING = 5
"""Steps that the trailing mean of a learning curve is over."""
RESAMPLES = 10_000

_BLOCK = 4_000_000  # resampled numbers in memory at once, 8 bytes each
_OUTSIDE = 0.05  # the chance that an interval misses
_ENDS = (_OUTSIDE / 2, 1 - _OUTSIDE / 2)
_ROUNDING = 1e-9  # a mean of shares that is the target on paper may come out this much below it


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How much one arm is above another on the same seeds and questions; see `paired_differences`."""

    seeds: int
    questions: int
    absolute: Estimate
    simultaneous: tuple[float, float]
    """The interval of the absolute difference that holds for all comparisons at once."""
    relative: float | None
    """None where the other arm's mean is 0: undefined."""
    relative_interval: tuple[float, float] | None
    """None where the other arm's mean is 0 in some resample: undefined."""


def trailing_mean(values: ArrayLike, width: int = SMOOTHING) -> NDArray[np.float64]:
    """The trailing mean of a curve (T,): s[t] = (x[t - w + 1] + .. + x[t]) / w with w = min(width, T).

    The result is (T - w + 1,): it begins at the w-th step, the first with w values behind it.
    """
    curve = np.asarray(values, dtype=np.float64)
    if curve.size == 0:
        return curve
    smoothed: NDArray[np.float64] = sliding_window_view(curve, min(width, curve.size)).mean(axis=-1)
    return smoothed


def first_at_target(smoothed: ArrayLike, target: float) -> int | None:
    """The first t with s[t] >= target, from 0; None where the curve never gets there."""
    reached = np.flatnonzero(np.asarray(smoothed, dtype=np.float64) >= target - _ROUNDING)
    return int(reached[0]) if reached.size else None


def median_reached(places: Sequence[float | None]) -> float | None:
    """The median over seeds of when the target was reached, never (None) counting as infinity; None if infinite.

    With an even number of seeds it is the mean of the middle two, and infinite if one of them is.
    """
    median = np.median([np.inf if place is None else place for place in places])
    return float(median) if np.isfinite(median) else None


def area_under_curve(values: ArrayLike) -> float:
    """The mean of the unsmoothed curve over its steps: (x[1] + .. + x[T]) / T."""
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def first_and_last_third(steps: ArrayLike, values: ArrayLike, total: int) -> tuple[float | None, float | None]:
    """Means of the values at the first and at the last total // 3 (at least one) of the steps 1 .. total.

    `values` (N,) are at `steps` (N,), which need not be all; None for a third without a value.
    """
    places, curve = np.asarray(steps), np.asarray(values, dtype=np.float64)
    third = max(total // 3, 1)
    first, last = curve[places <= third], curve[places > total - third]
    return float(first.mean()) if first.size else None, float(last.mean()) if last.size else None


def seed_band(
    curves: ArrayLike, samples: int = RESAMPLES, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends, (T,) each, of the interval of the mean curve when the S rows of `curves` (S, T) are resampled.

    m[b, t] = sum_s u[b, s] x[s, t] / S with u[b] ~ Multinomial(S; 1/S, ..), the same u for every step; the ends
    are the quantiles of m[:, t].
    """
    table = np.asarray(curves, dtype=np.float64)
    rows, columns = table.shape
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=samples)
    low, high = np.empty(columns), np.empty(columns)
    width = max(1, _BLOCK // samples)
    for start in range(0, columns, width):
        part = slice(start, start + width)
        low[part], high[part] = np.quantile(drawn @ table[:, part] / rows, _ENDS, axis=0)
    return low, high


def crossed_means(tables: ArrayLike, samples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Resampled means (B, K) of K tables (K, S, Q), seeds and questions drawn anew, the same for all tables.

    m[b, k] = sum_s sum_q u[b, s] v[b, q] x[k, s, q] / (S Q) with u[b] ~ Multinomial(S; 1/S, ..) and
    v[b] ~ Multinomial(Q; 1/Q, ..): a seed is drawn with all its questions and a question with all its seeds, since
    scores that share either are not independent. Raises ValueError where a table is empty or not finite.
    """
    stacked = np.asarray(tables, dtype=np.float64)
    if stacked.ndim != 3 or stacked.size == 0 or not np.isfinite(stacked).all():
        raise ValueError("tables must be (tables, seeds, questions), none of them 0, of finite numbers")
    count, rows, columns = stacked.shape
    generator = np.random.default_rng(seed)
    means = np.empty((samples, count))
    block = max(1, _BLOCK // (2 * max(rows, columns)))
    for start in range(0, samples, block):
        size = min(block, samples - start)
        u = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
        v = generator.multinomial(columns, np.full(columns, 1 / columns), size=size)
        for k in range(count):
            means[start : start + size, k] = np.einsum("bq,bq->b", u @ stacked[k], v) / (rows * columns)
    return means


def crossed_estimates(tables: ArrayLike, samples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """The mean of each of K tables (K, S, Q) and its interval over seeds and questions, both resampled."""
    scores = np.asarray(tables, dtype=np.float64)
    low, high = np.quantile(crossed_means(scores, samples, seed), _ENDS, axis=0)
    means = scores.mean(axis=(1, 2))
    return [Estimate(*map(float, numbers)) for numbers in zip(means, low, high, strict=True)]


def paired_differences(
    scores: ArrayLike, others: ArrayLike, comparisons: int = 1, samples: int = RESAMPLES, seed: int = 0
) -> list[PairedDifference]:
    """How much each of K tables `scores` (K, S, Q) is above its one in `others`; the same seeds and questions in both.

    D[s, q] = scores[s, q] - others[s, q]; absolute: mean(D); relative: mean(D) / mean(others). The intervals are
    quantiles of the same two over the resamples of `crossed_means`, D and `others` drawn together. `simultaneous` is
    the 1 - 5 % / `comparisons` interval: so many of them hold at once with 95 % and more (Bonferroni; Dunn, 1961).
    Raises ValueError where the tables are of different shapes, empty, or not finite.
    """
    ours, theirs = np.asarray(scores, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"the tables have different shapes, {ours.shape} and {theirs.shape}")
    gaps = ours - theirs
    means = crossed_means(np.concatenate([gaps, theirs]), samples, seed)
    return [
        _paired_difference(gap, other, resampled_gap, resampled_other, comparisons)
        for gap, other, resampled_gap, resampled_other in zip(
            gaps, theirs, means.T[: len(gaps)], means.T[len(gaps) :], strict=True
        )
    ]


def _paired_difference(
    gap: NDArray[np.float64],
    other: NDArray[np.float64],
    resampled_gap: NDArray[np.float64],
    resampled_other: NDArray[np.float64],
    comparisons: int,
) -> PairedDifference:
    relative, relative_interval = None, None
    if other.mean() != 0:
        relative = float(gap.mean() / other.mean())
    # Leaving out the resamples without a quotient would move the interval: there is none then.
    if (resampled_other != 0).all():
        relative_interval = _interval(resampled_gap / resampled_other, _OUTSIDE)
    return PairedDifference(
        seeds=gap.shape[0],
        questions=gap.shape[1],
        absolute=Estimate(float(gap.mean()), *_interval(resampled_gap, _OUTSIDE)),
        simultaneous=_interval(resampled_gap, _OUTSIDE / comparisons),
        relative=relative,
        relative_interval=relative_interval,
    )


def _interval(resampled: NDArray[np.float64], outside: float) -> tuple[float, float]:
    """The ends that leave out the share `outside` of the resamples, half of it on each side."""
    low, high = np.quantile(resampled, (outside / 2, 1 - outside / 2))
    return float(low), float(high)
