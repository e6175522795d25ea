"""Arms compared with each other: everything that a comparison reports, as one JSON object of plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tspo.errors import BadInput
from tspo.evaluation.comparison import (
    area_under_curve,
    crossed_estimates,
    first_and_last_third,
    first_at_target,
    median_reached,
    paired_differences,
    seed_band,
    trailing_mean,
)
from tspo.evaluation.metrics import bootstrap_interval
from tspo.evaluation.run_results import HELD_OUT, RunResult, common_questions, common_steps, score_tables

CURVES = ("exact_match", "answer_in_feedback", "near_miss_share", "searches")
"""Metrics of the training rollouts whose curve is kept."""

SIGNAL = (
    "no_variance_share_grpo",
    "no_variance_share_tspo",
    "all_wrong_share",
    "reward_variance_grpo",
    "reward_variance_tspo",
    "credit_entropy_grpo",
    "credit_entropy_tspo",
    "near_miss_share",
    "grad_norm",
    "grad_norm_all_wrong",
)
"""Metrics that tell how alike the trajectories of a group are to the method; those that runs have are shown."""


@dataclass(frozen=True, slots=True)
class ArmRuns:
    """The finished runs of one arm, by seed, and the episodes that each of its rollouts makes."""

    runs: Mapping[int, RunResult]
    episodes_per_rollout: int


def compare_arms(arms: Mapping[str, ArmRuns], target: float, against: str | None = None) -> dict[str, Any]:
    """Everything that is compared, as one JSON object; arms are compared with the arm `against`, or with the first."""
    baseline = next(iter(arms)) if against is None else against
    return {
        "baseline": baseline,
        "target_exact_match": target,
        "arms": {
            name: {
                "seeds": list(arm.runs),
                "held_out": _held_out(list(arm.runs.values()), list(arm.runs), None),
                "held_out_by_source": _by_source(arm),
                "learning": _learning(arm, target),
                "signal": _signal(arm),
                "curves": _curves(arm),
            }
            for name, arm in arms.items()
        },
        "differences": {
            name: _difference(arm, arms[baseline], len(arms) - 1) for name, arm in arms.items() if name != baseline
        },
    }


def _held_out(runs: Sequence[RunResult], seeds: Sequence[int], source: str | None) -> dict[str, Any]:
    questions = common_questions(runs, source)
    if not questions:
        raise BadInput("the seeds of an arm have no test question in common; run them again with one data.test")
    tables = score_tables(runs, questions)
    metrics = {
        name: {**asdict(estimate), "per_seed": dict(zip(map(str, seeds), table.mean(axis=1).tolist(), strict=True))}
        for name, table, estimate in zip(HELD_OUT, tables, crossed_estimates(tables), strict=True)
    }
    return {"questions": len(questions), "metrics": metrics}


def _by_source(arm: ArmRuns) -> dict[str, Any]:
    runs = list(arm.runs.values())
    sources = _sources(runs)
    return {source: _held_out(runs, list(arm.runs), source) for source in sources} if len(sources) > 1 else {}


def _sources(runs: Sequence[RunResult]) -> list[str]:
    """The data sources of the questions that all runs answered."""
    return sorted({runs[0].sources[question] for question in common_questions(runs) if question in runs[0].sources})


def _learning(arm: ArmRuns, target: float) -> dict[str, Any] | None:
    """What a run spent, its area under the curve of exact match, and when that reached the target.

    None without that curve.
    """
    curves = {seed: run.curves["exact_match"] for seed, run in arm.runs.items() if "exact_match" in run.curves}
    if not curves:
        return None
    reached: dict[str, dict[str, float | None]] = {}
    for seed, curve in curves.items():
        smoothed = trailing_mean(curve.values)
        place = first_at_target(smoothed, target)
        # s[t] ends at the step that its window ends at.
        index = None if place is None else place + len(curve.values) - len(smoothed)
        step = None if index is None else int(curve.steps[index])
        tokens = arm.runs[seed].curves.get("tokens_seen")
        reached[str(seed)] = {
            "steps": step,
            "tokens": dict(zip(tokens.steps, tokens.values.tolist(), strict=True)).get(step) if tokens else None,
            "episodes": None if index is None else (index + 1) * arm.episodes_per_rollout,
        }
    areas = {str(seed): area_under_curve(curve.values) for seed, curve in curves.items()}
    tokens_seen = [run.curves["tokens_seen"].values[-1] for run in arm.runs.values() if "tokens_seen" in run.curves]
    return {
        "spent": {
            "episodes": max(len(curve.values) for curve in curves.values()) * arm.episodes_per_rollout,
            "tokens": _mean_known(tokens_seen),
        },
        "area": _over_seeds(list(areas.values())) | {"per_seed": areas},
        "target": {
            "reached": sum(places["steps"] is not None for places in reached.values()),
            "seeds": len(reached),
            "median": {
                name: median_reached([places[name] for places in reached.values()])
                for name in ("steps", "tokens", "episodes")
            },
            "per_seed": reached,
        },
    }


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds and its interval; one seed has none."""
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    return {"mean": float(np.mean(values)), "low": low, "high": high}


def _signal(arm: ArmRuns) -> dict[str, Any]:
    """The mean over seeds in the first and the last third of the steps, of each metric that some run has."""
    found = {}
    for name in SIGNAL:
        thirds = {str(seed): _thirds(run, name) for seed, run in arm.runs.items() if name in run.curves}
        if thirds:
            first, last = (_mean_known(values) for values in zip(*thirds.values(), strict=True))
            found[name] = {"first": first, "last": last, "per_seed": {seed: list(of) for seed, of in thirds.items()}}
    return found


def _thirds(run: RunResult, name: str) -> tuple[float | None, float | None]:
    total = max(int(curve.steps[-1]) for curve in run.curves.values())
    return first_and_last_third(run.curves[name].steps, run.curves[name].values, total)


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _curves(arm: ArmRuns) -> dict[str, Any]:
    """The fields of a Series for each metric of CURVES that all runs have; no band for one seed."""
    found: dict[str, Any] = {}
    for name in CURVES:
        if not all(name in run.curves for run in arm.runs.values()):
            continue
        steps, table = common_steps([run.curves[name] for run in arm.runs.values()])
        smoothed = np.stack([trailing_mean(row) for row in table])
        shown = steps[len(steps) - smoothed.shape[1] :]
        found[name] = {"x": shown.tolist(), "y": smoothed.mean(axis=0).tolist()}
        if len(smoothed) > 1:
            low, high = seed_band(smoothed)
            found[name] |= {"low": low.tolist(), "high": high.tolist()}
    return found


def _difference(arm: ArmRuns, baseline: ArmRuns, comparisons: int) -> dict[str, Any] | None:
    """Seed by seed and question by question; None where the two arms have no seed or question in common."""
    seeds = sorted(arm.runs.keys() & baseline.runs.keys())
    ours, theirs = [arm.runs[seed] for seed in seeds], [baseline.runs[seed] for seed in seeds]
    if not seeds or not common_questions([*ours, *theirs]):
        return None
    sources = _sources([*ours, *theirs])
    pairs = [(a.curves.get("exact_match"), b.curves.get("exact_match")) for a, b in zip(ours, theirs, strict=True)]
    gaps = [area_under_curve(a.values) - area_under_curve(b.values) for a, b in pairs if a and b]
    return {
        "seeds": seeds,
        "held_out": _paired(ours, theirs, comparisons),
        "held_out_by_source": (
            {name: _paired(ours, theirs, comparisons, name) for name in sources} if len(sources) > 1 else {}
        ),
        "area": _over_seeds(gaps) | {"seeds": len(gaps)} if gaps else None,
    }


def _paired(
    ours: Sequence[RunResult], theirs: Sequence[RunResult], comparisons: int, source: str | None = None
) -> dict[str, Any]:
    questions = common_questions([*ours, *theirs], source)
    differences = paired_differences(score_tables(ours, questions), score_tables(theirs, questions), comparisons)
    return {name: asdict(difference) for name, difference in zip(HELD_OUT, differences, strict=True)}
