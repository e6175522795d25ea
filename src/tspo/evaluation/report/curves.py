"""The run's curves: which metrics share a chart, and what the chart shows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from markupsafe import Markup

from tspo.evaluation.charts import Chart, Series, line_chart

_SHORTEST_WINDOW = 5
_WINDOWS_A_RUN = 20
_MOST_POINTS = 300


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of the page."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What one chart shows."""

    title: str
    y_label: str
    caption: str
    metrics: dict[str, str]
    """Metric by metric, the label of its line."""
    also: dict[str, str] = field(default_factory=dict)
    """What else to say where a metric is there."""


PLANS = (
    Plan(
        "What the rollouts reach",
        "share of trajectories",
        "On training questions: answers that are right, trajectories whose feedback held the answer, and near misses "
        "(the feedback held it, the answer is wrong). Near misses are what TSPO can tell from other wrong answers.",
        {"exact_match": "exact match", "answer_in_feedback": "answer found", "near_miss_share": "near miss"},
    ),
    Plan(
        "Groups that teach nothing",
        "share of groups",
        "Groups in which every advantage is 0, under GRPO and under TSPO, both measured on the same trajectories "
        "whichever method trains; lower is better.",
        {
            "no_variance_share_grpo": "under GRPO",
            "no_variance_share_tspo": "under TSPO",
            "all_wrong_share": "all answers wrong",
        },
        {"all_wrong_share": "Beside them the groups without a right answer, of which GRPO can use none."},
    ),
    Plan(
        "Spread of rewards within a group",
        "variance",
        "How much the rewards that a method compares differ within a group, over groups: GRPO compares outcomes, "
        "TSPO what turns earned. At 0 there is nothing to prefer.",
        {"reward_variance_grpo": "GRPO", "reward_variance_tspo": "TSPO"},
    ),
    Plan(
        "Spread of credit over turns",
        "entropy, of 1",
        "How evenly a trajectory's advantages lie on its turns: 1 where all turns have the same, as GRPO always "
        "gives them, 0 where one turn has it all.",
        {"credit_entropy_grpo": "GRPO", "credit_entropy_tspo": "TSPO"},
    ),
    Plan(
        "Gradient",
        "norm",
        "The size of the gradient before clipping.",
        {"grad_norm": "all groups", "grad_norm_all_wrong": "all-wrong groups"},
        {"grad_norm_all_wrong": "Beside it the part from all-wrong groups, where GRPO has nothing but the KL term."},
    ),
    Plan(
        "How long episodes are",
        "per trajectory",
        "Turns a trajectory has, and searches it asks for.",
        {"turns": "turns", "searches": "searches"},
    ),
    Plan(
        "Entropy of the policy",
        "nats a token",
        "How undecided the policy is at the tokens it samples; a fall to 0 means that it no longer explores.",
        {"entropy": "entropy"},
    ),
    Plan(
        "Distance from the start",
        "KL a token",
        "How far the policy has moved from the model that training began with.",
        {"kl": "KL"},
    ),
    Plan(
        "Speed",
        "tokens per second",
        "Policy tokens sampled over the time of the rollout, and all tokens of the trajectories over the rest of "
        "the step.",
        {"rollout_tokens_per_second": "rollout", "update_tokens_per_second": "update"},
    ),
)


_ON_CARDS = ("What the rollouts reach", "Groups that teach nothing", "How long episodes are", "Entropy of the policy")


def curves(steps: Sequence[dict[str, float]]) -> list[Curve]:
    """The charts whose metrics the steps have; none where there are no steps."""
    drawn: list[Curve] = []
    for plan in PLANS:
        if there := _there(plan, steps):
            svg = line_chart(_lines(there, steps), title="", y_label=plan.y_label)
            caption = " ".join([plan.caption, *(said for metric, said in plan.also.items() if metric in there)])
            drawn.append(Curve(plan.title, _with_own_ids(svg, f"chart{len(drawn)}-"), caption))
    return drawn


def card_charts(steps: Sequence[dict[str, float]]) -> list[Chart]:
    """The few charts that say most, for one picture; none where there are no steps."""
    return [
        Chart(_lines(there, steps), plan.title, plan.y_label)
        for plan in PLANS
        if plan.title in _ON_CARDS and (there := _there(plan, steps))
    ]


def _there(plan: Plan, steps: Sequence[dict[str, float]]) -> dict[str, str]:
    """Those of the plan's metrics that the steps have, with their labels."""
    return {metric: label for metric, label in plan.metrics.items() if any(metric in step for step in steps)}


def _lines(metrics: dict[str, str], steps: Sequence[dict[str, float]]) -> list[Series]:
    return [smoothed(label if len(metrics) > 1 else "", steps, metric) for metric, label in metrics.items()]


def smoothing(steps: int) -> str:
    """How lines and bands of a run of so many steps are to be read."""
    return f"Lines are the mean of a step and the {_window(steps) - 1} before it, bands that mean's standard error."


def _window(steps: int) -> int:
    return max(_SHORTEST_WINDOW, steps // _WINDOWS_A_RUN)


def smoothed(label: str, steps: Sequence[dict[str, float]], metric: str) -> Series:
    """A metric's mean over a window of steps, with that mean's standard error as its band; at most 300 points."""
    points = [(step["step"], step[metric]) for step in steps if math.isfinite(step.get(metric, math.nan))]
    # Of a long run some steps are drawn, the last always; each stands for the window before it.
    stride = -(-len(points) // _MOST_POINTS) or 1
    drawn = range((len(points) - 1) % stride, len(points), stride)
    width = _window(len(steps))
    windows = [[y for _, y in points[max(i + 1 - width, 0) : i + 1]] for i in drawn]
    means = [fmean(window) for window in windows]
    errors = [stdev(window) / math.sqrt(len(window)) if len(window) > 1 else 0.0 for window in windows]
    return Series(
        label,
        x=[points[i][0] for i in drawn],
        y=means,
        low=[mean - error for mean, error in zip(means, errors, strict=True)],
        high=[mean + error for mean, error in zip(means, errors, strict=True)],
    )


def _with_own_ids(svg: str, prefix: str) -> Markup:
    """The chart with ids that no other chart of the page has; its text is all ours, so it is markup as it stands."""
    return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}", svg))
