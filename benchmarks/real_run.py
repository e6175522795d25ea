"""Tables and curves of finished runs, side by side, as docs/results shows them.

    python benchmarks/real_run.py runs/smollm2-wiki-qa runs/smollm2-wiki-qa-grpo \\
        --svg docs/results/smollm2-wiki-qa.svg

How to read it: the first table is the evaluation on test questions, mean and bootstrap 95 % interval; the second
is the difference of the runs' last evaluations question by question; the third is what the rollouts of the first
and the last third of training looked like, on training questions.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tspo.evaluation.metrics import bootstrap_interval, score_trajectory
from tspo.trajectory import read_records

STAGES = ("before", "after-warm-up", "after-training")
EVALUATED = {
    "exact_match": "EM",
    "f1": "F1",
    "answer_in_feedback": "answer found",
    "search_share": "turns that search",
    "turns": "turns",
}
FROM_ROLLOUTS = {
    "exact_match": "EM",
    "answer_in_feedback": "answer found",
    "near_miss_share": "near miss",
    "no_variance_share_grpo": "no variance, GRPO",
    "no_variance_share_tspo": "no variance, TSPO",
    "searches": "searches",
    "entropy": "entropy",
    "kl": "KL",
    "clip_share": "clip share",
    "grad_norm": "gradient norm",
    "rollout_tokens_per_second": "sampled tokens/s",
    "update_tokens_per_second": "trained tokens/s",
    "step_seconds": "seconds a step",
}
CURVES = ("exact_match", "answer_in_feedback", "near_miss_share", "entropy")
# Okabe and Ito's colours, told apart by colour-blind readers; the line style says it once more.
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", ":"))


def main() -> None:
    """Print the tables, and draw the curves where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--svg", type=Path, help="also draw the training curves here")
    arguments = parser.parse_args()
    metrics = {run.name: read_metrics(run) for run in arguments.runs}
    print_evaluations(arguments.runs)
    for first, second in pairwise(arguments.runs):
        print_difference(first, second)
    print_training(metrics)
    if arguments.svg:
        draw(metrics, arguments.svg)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics lines of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def print_evaluations(runs: list[Path]) -> None:
    """Every evaluation that a run has, a row each."""
    print("| run | stage | questions | " + " | ".join(EVALUATED.values()) + " |")
    print("| --- | --- |" + " ---: |" * (1 + len(EVALUATED)))
    for run in runs:
        for stage in STAGES:
            path = run / "evaluation" / stage / "summary.json"
            if not path.exists():
                continue
            summary = json.loads(path.read_text(encoding="utf-8"))["all"]
            cells = ["{mean:.3f} [{low:.3f}, {high:.3f}]".format(**summary["metrics"][name]) for name in EVALUATED]
            print(f"| {run.name} | {stage.replace('-', ' ')} | {summary['questions']} | " + " | ".join(cells) + " |")
    print()


def print_difference(first: Path, second: Path) -> None:
    """The paired difference of two runs' last evaluations, with its bootstrap 95 % interval over questions."""
    scores = [last_scores(run) for run in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    print(f"| {first.name} - {second.name}, paired over {len(common)} questions | mean | 95 % interval |")
    print("| --- | ---: | ---: |")
    for name in ("exact_match", "f1", "answer_in_feedback"):
        gaps = np.array([scores[0][key][name] - scores[1][key][name] for key in common])
        low, high = bootstrap_interval(gaps)
        print(f"| {EVALUATED[name]} | {gaps.mean():+.3f} | [{low:+.3f}, {high:+.3f}] |")
    print()


def last_scores(run: Path) -> dict[str, dict[str, float]]:
    """Each question's scores in the evaluation after training."""
    path = run / "evaluation" / STAGES[-1] / "trajectories.jsonl"
    with path.open("rb") as stream:
        trajectories = [trajectory for _, trajectory in read_records(stream, str(path))]
    return {
        trajectory.trajectory_id: {
            name: getattr(score_trajectory(trajectory), name) for name in ("exact_match", "f1", "answer_in_feedback")
        }
        for trajectory in trajectories
    }


def print_training(metrics: dict[str, list[dict[str, Any]]]) -> None:
    """Means over the first and the last third of the steps."""
    print("| in training | " + " | ".join(f"{run}, first third | last third" for run in metrics) + " |")
    print("| --- |" + " ---: | ---: |" * len(metrics))
    for name, heading in FROM_ROLLOUTS.items():
        cells = []
        for lines in metrics.values():
            third = max(len(lines) // 3, 1)
            cells += [f"{np.mean([line[name] for line in part]):.3g}" for part in (lines[:third], lines[-third:])]
        print(f"| {heading} | " + " | ".join(cells) + " |")


def draw(metrics: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel a metric: each step faint, the mean of five steps over it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "tspo", "font.size": 9}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(CURVES), figsize=(3 * len(CURVES), 2.6), layout="constrained")
    for panel, name in zip(panels, CURVES, strict=True):
        for (run, lines), (colour, style) in zip(metrics.items(), STYLES, strict=False):
            steps = np.array([line["step"] for line in lines])
            values = np.array([line[name] for line in lines])
            width = min(5, len(values))
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            panel.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
            panel.plot(steps[width - 1 :], smooth, color=colour, linestyle=style, label=run)
        panel.set_title(FROM_ROLLOUTS[name])
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
