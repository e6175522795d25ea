"""One training step, from top to bottom: rollout -> credit -> batch -> update -> metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object

from tspo.credit import CreditConfig, assign_credit
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.rewards.information_gain import AnswerScorer
from tspo.rewards.stepsearch import FIELD as SUPPORTING_PASSAGES
from tspo.rollout.batched_search import SearchLog
from tspo.rollout.codec import Codec
from tspo.rollout.episode import Request
from tspo.training.answer_scores import score_answers
from tspo.training.batch import Batch, make_batch, rows_by_group
from tspo.training.diagnostics import all_wrong, rollout_metrics, search_metrics
from tspo.training.objective import Objective
from tspo.training.step_files import save_log_ratios, save_step
from tspo.training.token_details import add_token_ends, log_ratios
from tspo.training.update import Learner, Update, update_policy, with_other_policies
from tspo.trajectory import Trajectory

Rollout = Callable[[Sequence[Request]], tuple[list[Trajectory], SearchLog]]
"""Runs one episode per request with the policy as it is now, and says how its searches went."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What decides a step; `trajectory_dir` is where its trajectories are written, `answer_cue` is IGPO's."""

    groups_per_step: int
    group_size: int
    credit: CreditConfig
    objective: Objective
    epochs: int = 1
    minibatches: int = 1
    seed: int = 0
    trajectory_dir: Path | None = None
    token_details: bool = False
    answer_cue: str = ""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step works on: questions, what answers them, and what learns from it."""

    questions: Sequence[Question]
    rollout: Rollout
    answer_scorer: AnswerScorer
    codec: Codec
    learner: Learner


def training_step(step: int, inputs: StepInputs, settings: StepSettings) -> dict[str, float]:
    """Do step number `step`, counted from 1, on all processes together; its metrics, the same in each of them."""
    started = time.perf_counter()
    accelerator = inputs.learner.accelerator

    # rollout: each process runs its share of the episodes
    asked = questions_of_step(step, len(inputs.questions), settings.groups_per_step, settings.seed)
    requests = requests_of_step(step, [inputs.questions[index] for index in asked], settings)
    mine = share(len(requests), accelerator.process_index, accelerator.num_processes)
    trajectories, searches = inputs.rollout(requests[mine])
    add_what_is_needed(trajectories, requests[mine], inputs, settings)
    everyone: list[Trajectory] = gather_object(trajectories)
    rollout_seconds = time.perf_counter() - started

    # credit: a group may lie on several processes, and is compared as a whole
    credits = assign_credit(everyone, settings.credit)
    wrong = all_wrong(everyone, credits)
    metrics = rollout_metrics(everyone, credits, settings.credit, rollout_seconds)
    metrics |= search_metrics(gather_object([searches]))
    if settings.trajectory_dir is not None and accelerator.is_main_process:
        save_step(everyone, credits, step, settings.trajectory_dir)

    # batch and updates
    group = [number // settings.group_size for number in range(len(requests))]
    batch = make_batch(trajectories, credits[mine], group[mine], wrong[mine])
    updates, logprobs = update_on(batch, inputs.learner, settings)
    metrics |= metrics_of_updates(updates)
    if settings.trajectory_dir is not None and settings.token_details:
        rows = gather_object(log_ratios(trajectories, batch, logprobs))
        if accelerator.is_main_process:
            save_log_ratios(rows, step, settings.trajectory_dir)

    seconds = time.perf_counter() - started
    trained_tokens = metrics.pop("trained_tokens")
    return metrics | {
        "step_seconds": seconds,
        "update_seconds": seconds - rollout_seconds,
        "update_tokens_per_second": trained_tokens / (seconds - rollout_seconds),
        "tokens": trained_tokens,
    }


def questions_of_step(step: int, num_questions: int, groups_per_step: int, seed: int) -> list[int]:
    """The questions of a step, `groups_per_step` different ones: a function of its arguments alone.

    An epoch goes through the questions in an order of its own, drawn from the seed; those that fill no step are left
    out of it. Raises BadInput where there are fewer questions than a step wants.
    """
    steps_per_epoch = num_questions // groups_per_step
    if steps_per_epoch == 0:
        raise BadInput(
            f"training.groups_per_step: {groups_per_step} questions per step, but there are only {num_questions} to "
            "train on; lower it, or give more questions"
        )
    epoch, place = divmod(step - 1, steps_per_epoch)
    order = torch.randperm(num_questions, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return [int(index) for index in order[place * groups_per_step : (place + 1) * groups_per_step]]


def requests_of_step(step: int, questions: Sequence[Question], settings: StepSettings) -> list[Request]:
    """The step's episodes, a group after another; the random numbers of each belong to its place in the step."""
    requests: list[Request] = []
    for group, question in enumerate(questions):
        for member in range(settings.group_size):
            group_id = f"{step:06d}-{group:04d}"
            seed = f"{settings.seed}/{step - 1}/{len(requests)}"
            requests.append(Request(question, group_id, f"{group_id}-{member}", seed))
    return requests


def share(count: int, process: int, processes: int) -> slice:
    """The part of `count` items that is a process's: one after another, as even as can be."""
    return slice(count * process // processes, count * (process + 1) // processes)


def add_what_is_needed(
    trajectories: Sequence[Trajectory], requests: Sequence[Request], inputs: StepInputs, settings: StepSettings
) -> None:
    """Give the trajectories what the reward and the viewer read and a rollout does not know."""
    needs = settings.credit.rewards.needs
    if needs == "model":
        score_answers(trajectories, inputs.codec, inputs.answer_scorer, settings.answer_cue)
    for trajectory, request in zip(trajectories, requests, strict=True):
        if needs == "passages":
            trajectory.extra[SUPPORTING_PASSAGES] = list(request.question.supporting_passages)
        if settings.token_details:
            add_token_ends(trajectory, inputs.codec.tokenizer)


def update_on(batch: Batch, learner: Learner, settings: StepSettings) -> tuple[list[Update], torch.Tensor]:
    """The updates on one rollout: `epochs` times over it, in `minibatches` of whole groups.

    Also the log-probability (N,) of each of the batch's tokens as its last update computed it.
    """
    batch = with_other_policies(learner, batch, settings.epochs * settings.minibatches, settings.objective.beta)
    updates, logprobs = [], torch.zeros(len(batch.advantages))
    for rows in rows_by_group(batch, settings.minibatches) * settings.epochs:
        updates.append(update_policy(learner, batch.take(rows), settings.objective))
        logprobs[batch.places(rows)] = updates[-1].logprobs
    return updates, logprobs


def metrics_of_updates(updates: Sequence[Update]) -> dict[str, float]:
    """The mean of each metric over those of a step's updates that have it."""
    found: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}
