"""A step's parts, and a whole step on trajectories made by hand; the update itself is in update/test_update.py."""

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("peft")

import torch

from tspo.credit import CreditConfig, assign_credit
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.rollout.batched_search import SearchLog
from tspo.rollout.episode import Request
from tspo.training.batch import Batch
from tspo.training.metrics_log import TIMINGS
from tspo.training.objective import Objective
from tspo.training.step import (
    StepInputs,
    StepSettings,
    metrics_of_updates,
    questions_of_step,
    requests_of_step,
    share,
    training_step,
    update_on,
)
from tspo.training.token_details import log_ratio_file
from tspo.training.update import Update, score_batch, update_policy, with_other_policies
from tspo.trajectory import StopReason, Trajectory, read_records


def test_each_epoch_has_an_order_of_its_own() -> None:
    # The order of runs of older versions: TRL's RepeatSampler over 10 questions, whose seed is that of run and epoch.
    assert questions_of_step(1, num_questions=10, groups_per_step=4, seed=3) == [6, 0, 3, 7]
    assert questions_of_step(2, num_questions=10, groups_per_step=4, seed=3) == [8, 5, 1, 9]
    assert questions_of_step(3, num_questions=10, groups_per_step=4, seed=3) == [0, 4, 9, 6]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_within_an_epoch_no_question_comes_twice(questions: int, groups: int, seed: int) -> None:
    steps = questions // groups
    asked = [questions_of_step(step, questions, groups, seed) for step in range(1, steps + 1)]
    assert {len(of_step) for of_step in asked} <= {groups}
    assert len(set(itertools.chain(*asked))) == steps * groups
    assert {index for of_step in asked for index in of_step} <= set(range(questions))


def test_fewer_questions_than_a_step_wants_are_refused() -> None:
    with pytest.raises(BadInput, match="4 questions per step, but there are only 3 to train on; lower it") as error:
        questions_of_step(1, num_questions=3, groups_per_step=4, seed=0)
    assert "\n" not in str(error.value)


def settings(**changed: Any) -> StepSettings:
    usual: dict[str, Any] = {"groups_per_step": 2, "group_size": 4, "credit": CreditConfig(), "objective": Objective()}
    return StepSettings(**usual | changed)


def test_episodes_are_named_and_seeded_by_their_place() -> None:
    questions = [Question("a", "Who?", ("x",), "made"), Question("b", "Where?", ("y",), "made")]
    requests = requests_of_step(12, questions, settings(group_size=2, seed=5))
    assert requests == [
        Request(questions[0], "000012-0000", "000012-0000-0", "5/11/0"),
        Request(questions[0], "000012-0000", "000012-0000-1", "5/11/1"),
        Request(questions[1], "000012-0001", "000012-0001-0", "5/11/2"),
        Request(questions[1], "000012-0001", "000012-0001-1", "5/11/3"),
    ]


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_are_even_and_make_the_whole(count: int, processes: int) -> None:
    shares = [list(range(count))[share(count, process, processes)] for process in range(processes)]
    assert list(itertools.chain(*shares)) == list(range(count))
    sizes = [len(mine) for mine in shares]
    assert max(sizes) - min(sizes) <= 1


class Counts:
    """An answer scorer that says how long the prefix is."""

    def answer_log_probabilities(self, prefixes: Any, answers: Any) -> list[float]:
        return [-float(len(prefix)) for prefix in prefixes]


@pytest.fixture
def inputs(questions, codec, trajectories) -> Callable[..., StepInputs]:
    """A function: inputs of a step whose rollout gives the trajectories made by hand, for the groups as they are."""

    def make(learner: Any) -> StepInputs:
        def rollout(requests: Any) -> tuple[list[Trajectory], SearchLog]:
            of_question = itertools.groupby(trajectories, key=lambda trajectory: trajectory.question)
            by_question = {question: list(members) for question, members in of_question}
            made = []
            for request in requests:
                member = int(request.trajectory_id.rpartition("-")[2])
                made.append(deepcopy(by_question[request.question.question][member]))
                made[-1].group_id, made[-1].trajectory_id = request.group_id, request.trajectory_id
            return made, SearchLog([0.5, 1.5], failed=1)

        return StepInputs(questions, rollout, Counts(), codec, learner)

    return make


def written(folder: Path, step: int) -> list[dict[str, Any]]:
    with (folder / f"{step:06d}.jsonl").open("rb") as stream:
        return [trajectory for _, trajectory in read_records(stream, "file")]


METRICS = {
    *("loss", "entropy", "kl", "logprob_gap", "grad_norm", "grad_norm_all_wrong", "learning_rate", "skipped"),
    *("exact_match", "turn_reward", "answer_in_feedback", "near_miss_share", "all_wrong_share", "turns", "searches"),
    *("search_turn_share", "sampled_tokens", "rollout_seconds", "rollout_tokens_per_second", "search_seconds"),
    *("search_error_share", "no_variance_share_grpo", "no_variance_share_tspo", "reward_variance_grpo"),
    *("reward_variance_tspo", "credit_entropy_grpo", "credit_entropy_tspo", "step_seconds", "update_seconds"),
    *("update_tokens_per_second", "tokens", *(f"stop/{reason}" for reason in StopReason)),
}


def test_a_step_rolls_out_assigns_credit_and_updates_once(
    new_learner, tiny_model, another, inputs, trajectories, batch_of, gradient_of
) -> None:
    reference, objective = another(tiny_model), Objective(beta=0.05)
    learner = new_learner(reference=reference)
    metrics = training_step(1, inputs(learner), settings(objective=objective))
    assert metrics.keys() == METRICS
    assert (metrics["exact_match"], metrics["all_wrong_share"]) == (1 / 8, 1 / 2)
    assert metrics["tokens"] == sum(trajectory.num_tokens for trajectory in trajectories)
    assert metrics["step_seconds"] == pytest.approx(metrics["rollout_seconds"] + metrics["update_seconds"])
    assert TIMINGS - {"cache_hit_share"} <= metrics.keys()

    plain = new_learner(reference=reference)
    update = update_policy(
        plain, with_other_policies(plain, batch_of(trajectories), updates=1, beta=objective.beta), objective
    )
    assert {name: metrics[name] for name in update.metrics} == pytest.approx(update.metrics, rel=1e-5)
    difference = gradient_of(learner.model) - gradient_of(plain.model)
    assert difference.norm() / gradient_of(plain.model).norm() < 1e-5


def test_what_it_trained_on_is_written_with_its_credit(new_learner, inputs, trajectories, tmp_path: Path) -> None:
    training_step(3, inputs(new_learner()), settings(trajectory_dir=tmp_path))
    (file,) = tmp_path.iterdir()  # without details no ratios
    lines = written(tmp_path, 3)
    assert [line.group_id for line in lines] == ["000003-0000"] * 4 + ["000003-0001"] * 4
    by_question = {trajectory.question: [] for trajectory in trajectories}
    for trajectory, credit in zip(trajectories, assign_credit(trajectories, CreditConfig()), strict=True):
        by_question[trajectory.question].append(credit.turn_advantages)
    found = [line.extra["turn_advantages"] for line in lines]
    assert found == [*by_question[lines[0].question], *by_question[lines[4].question]]
    assert lines[0].extra["step"] == 3
    assert "token_ends" not in lines[0].turns[0].extra
    assert file.name == "000003.jsonl"


@pytest.mark.parametrize("minibatches", [1, 2])
def test_each_token_of_the_file_has_its_ratio_in_the_update(
    new_learner, inputs, trajectories, plain_logprobs, tmp_path: Path, minibatches: int
) -> None:
    trajectories[2].stop_reason = StopReason.RETRIEVER_ERROR
    learner = new_learner(max_rows=3)
    credit = CreditConfig(algorithm="grpo")  # under which the second group teaches nothing
    wanted = settings(credit=credit, trajectory_dir=tmp_path, token_details=True, minibatches=minibatches)
    training_step(1, inputs(learner), wanted)
    found = torch.tensor(np.load(log_ratio_file(tmp_path / "000001.jsonl")).astype("float32"))
    start = 0
    unknown = 0
    for trajectory in written(tmp_path, 1):
        sampled = torch.tensor([logprob for turn in trajectory.turns for logprob in turn.logprobs])
        with torch.no_grad():
            expected = plain_logprobs(learner.model, trajectory) - sampled
        own, start = found[start : start + len(expected)], start + len(expected)
        if trajectory.retriever_failed or not any(trajectory.extra["turn_advantages"]):
            assert own.isnan().all()
            unknown += 1
        else:
            assert torch.allclose(own, expected, atol=2e-3)
        assert all(len(turn.extra["token_ends"]) == len(turn.token_ids) for turn in trajectory.turns)
    assert start == len(found)
    assert 1 < unknown < len(trajectories)


def test_golden_passages_come_from_the_questions(new_learner, inputs, questions, tmp_path: Path) -> None:
    credit = CreditConfig(algorithm="gigpo", reward="stepsearch")
    training_step(1, inputs(new_learner()), settings(credit=credit, trajectory_dir=tmp_path))
    passages = {question.question: list(question.supporting_passages) for question in questions}
    lines = written(tmp_path, 1)
    assert all(line.extra["supporting_passages"] == passages[line.question] for line in lines)
    right = next(line for line in lines if line.answer == "Ann Lee")
    assert right.extra["turn_rewards"] == pytest.approx([1.0, 1.0])


def test_answers_are_scored_where_the_reward_wants_it(new_learner, inputs, codec, tmp_path: Path) -> None:
    credit = CreditConfig(algorithm="igpo")
    training_step(1, inputs(new_learner()), settings(credit=credit, trajectory_dir=tmp_path, answer_cue="<answer>"))
    for line in written(tmp_path, 1):
        first = len(line.prompt_token_ids) + len(codec.policy("<answer>"))
        assert line.turns[0].extra["answer_log_probability"] == -first


def test_updates_are_on_whole_groups_and_each_measures_its_own(new_learner, trajectories, batch_of) -> None:
    learner, batch = new_learner(max_rows=3), batch_of(trajectories)
    updates, logprobs = update_on(batch, learner, settings(minibatches=2))
    old = with_other_policies(learner, batch, updates=2, beta=0.0)
    for update, rows in zip(updates, ([0, 1, 2, 3], [4, 5, 6, 7]), strict=True):
        alone = update_policy(learner, old.take(rows), Objective())
        assert update.metrics == pytest.approx(alone.metrics)
    norms = [(update.metrics["grad_norm_all_wrong"], update.metrics["grad_norm"]) for update in updates]
    assert norms[0][0] == 0.0 < norms[0][1]
    assert norms[1][0] == pytest.approx(norms[1][1])
    assert torch.allclose(logprobs, old.old_logprobs, atol=1e-6, equal_nan=True)


def test_later_updates_compare_with_the_policy_before_the_first(new_learner, trajectories, batch_of) -> None:
    learner, batch = new_learner(learning_rate=0.3), batch_of(trajectories)
    before = score_batch(learner, batch, learner.score)
    updates, logprobs = update_on(batch, learner, settings(epochs=3))
    assert len(updates) == 3

    again, old = new_learner(learning_rate=0.3), replace(batch, old_logprobs=before)
    alone = [update_policy(again, old, Objective()) for _ in range(3)]
    assert [update.metrics for update in updates] == [pytest.approx(update.metrics) for update in alone]
    assert updates[0].metrics["clip_share"] == 0.0 < updates[2].metrics["clip_share"]
    assert torch.allclose(logprobs, alone[2].logprobs, atol=1e-6, equal_nan=True)
    assert (logprobs - before).nan_to_num().abs().max() > 1e-3


def test_where_all_is_wrong_every_update_says_so(new_learner, trajectories, batch_of) -> None:
    trajectories[0].answer = "Bob"
    updates, _ = update_on(batch_of(trajectories), new_learner(learning_rate=0.1), settings(epochs=2, minibatches=2))
    norms = [update.metrics["grad_norm"] for update in updates]
    assert min(norms) > 0
    assert [update.metrics["grad_norm_all_wrong"] for update in updates] == pytest.approx(norms, rel=1e-5)


def test_epochs_go_over_all_minibatches_and_their_metrics_are_one_line(
    new_learner, inputs, trajectories, batch_of
) -> None:
    learner = new_learner(learning_rate=0.1, schedule="linear", steps=8)
    metrics = training_step(1, inputs(learner), settings(epochs=2, minibatches=2))
    assert learner.schedule.last_epoch == 4
    assert metrics["learning_rate"] == pytest.approx(0.1 * (8 + 7 + 6 + 5) / 4 / 8)
    assert metrics.keys() == (METRICS - {"kl"}) | {"clip_share"}
    assert metrics["exact_match"] == 1 / 8


def test_an_update_without_groups_of_this_process_is_done_all_the_same(new_learner, trajectories, batch_of) -> None:
    batch: Batch = batch_of(trajectories[:4])
    updates, logprobs = update_on(batch, new_learner(), settings(minibatches=2))
    assert len(updates) == 2
    assert len(logprobs) == len(batch.advantages)


def test_a_steps_metric_is_the_mean_of_its_updates() -> None:
    updates = [Update({"loss": 1.0, "kl": 0.5}, torch.zeros(0)), Update({"loss": 4.0, "kl": 0.0}, torch.zeros(0))]
    assert metrics_of_updates(updates) == {"loss": 2.5, "kl": 0.25}
