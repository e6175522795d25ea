import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from tspo.datasets.questions import Question
from tspo.evaluation import runner
from tspo.evaluation.runner import Share, evaluate_questions, forget_evaluation, read_evaluation
from tspo.trajectory import StopReason, Trajectory, Turn

QUESTIONS = [Question(f"q{n}", f"Question {n}?", ("Ann",), "nq") for n in range(5)]


class Loop:
    """Answers in reverse order, as episodes end in no order; breaks after `last` of them."""

    def __init__(self, last=None, failing=()):
        self.last = last
        self.failing = failing
        self.asked = []
        self.sizes = []

    def rollout(self, requests, on_done):
        self.sizes.append(len(requests))
        for request in reversed(requests):
            if self.last is not None and len(self.asked) == self.last:
                raise KeyboardInterrupt
            self.asked.append(request.trajectory_id)
            failed = request.trajectory_id in self.failing
            on_done(
                Trajectory(
                    group_id=request.group_id,
                    trajectory_id=request.trajectory_id,
                    question=request.question.question,
                    golden_answers=["Ann"],
                    turns=[Turn("<answer>Ann</answer>", token_ids=[1, 2])],
                    answer=None if failed else "Ann",
                    stop_reason=StopReason.RETRIEVER_ERROR if failed else StopReason.ANSWER,
                    extra={"data_source": "nq", "text": "\u2028 line\ud800"},
                )
            )


def evaluate(loop, folder, samples=2):
    console = Console(file=io.StringIO())
    summary = evaluate_questions(loop, QUESTIONS, folder, samples=samples, seed=0, console=console, label="evaluate")
    return summary, console.file.getvalue()


def ids_in(folder):
    return [json.loads(line)["trajectory_id"] for line in (folder / "trajectories.jsonl").open(encoding="utf-8")]


ALL = [f"q{n}-{sample}" for n in range(5) for sample in range(2)]


def test_trajectories_are_written_in_the_questions_order(tmp_path):
    summary, _ = evaluate(Loop(), tmp_path)
    assert ids_in(tmp_path) == ALL
    assert (summary.overall.questions, summary.overall.trajectories) == (5, 10)
    assert read_evaluation(tmp_path) == summary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "trajectories.jsonl"]


def test_what_was_stopped_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Loop(last=4), tmp_path)
    assert read_evaluation(tmp_path) is None
    second = Loop()
    _, said = evaluate(second, tmp_path)
    assert sorted(second.asked) == ALL[:6]
    assert "4 of 10 episodes are there" in said
    assert ids_in(tmp_path) == ALL
    whole = tmp_path / "whole"
    whole.mkdir()
    evaluate(Loop(), whole)
    assert (tmp_path / "trajectories.jsonl").read_bytes() == (whole / "trajectories.jsonl").read_bytes()


@pytest.mark.parametrize("tail", ['{"trajectory_id": "q0-0", "tur', "\x00\x00\x00", '{"a": 1}\n', "[]\n", "nonsense\n"])
def test_a_line_that_a_kill_cut_is_run_again(tmp_path, tail):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Loop(last=3), tmp_path)
    with (tmp_path / ".episodes.part").open("a") as stream:
        stream.write(tail)
    loop = Loop()
    evaluate(loop, tmp_path)
    assert len(loop.asked) == 7
    assert ids_in(tmp_path) == ALL


def test_episodes_that_the_retriever_cut_off_are_run_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(Loop(last=4, failing={"q4-1"}), tmp_path)
    loop = Loop()
    summary, _ = evaluate(loop, tmp_path)
    assert "q4-1" in loop.asked
    assert summary.overall.stop_reasons == {"answer": 10}
    assert ids_in(tmp_path) == ALL


def test_episodes_that_fail_to_the_end_stay(tmp_path):
    summary, _ = evaluate(Loop(failing={"q4-1"}), tmp_path)
    assert summary.overall.stop_reasons == {"answer": 9, "retriever_error": 1}


def in_shares(loops, folder):
    """What processes make together, each with its loop; threads stand in for them."""
    barrier = threading.Barrier(len(loops), timeout=30)

    def run(index):
        share = Share(index, len(loops), barrier.wait)
        console = Console(file=io.StringIO())
        try:
            return evaluate_questions(
                loops[index], QUESTIONS, folder, samples=2, seed=0, console=console, label="", share=share
            )
        except KeyboardInterrupt:
            return None

    with ThreadPoolExecutor(len(loops)) as pool:
        running = [pool.submit(run, index) for index in range(len(loops))]
    return [one.result() for one in running if one.exception() is None]


def test_several_processes_have_the_result_of_one(tmp_path):
    for name in ("one", "three", "gone on"):
        (tmp_path / name).mkdir()
    summary, _ = evaluate(Loop(), tmp_path / "one")
    loops = [Loop(), Loop(), Loop()]
    assert in_shares(loops, tmp_path / "three") == [summary] * 3
    assert [sorted(loop.asked) for loop in loops] == [ALL[0::3], ALL[1::3], ALL[2::3]]
    whole = (tmp_path / "one" / "trajectories.jsonl").read_bytes()
    assert (tmp_path / "three" / "trajectories.jsonl").read_bytes() == whole

    assert in_shares([Loop(last=2), Loop(last=3)], tmp_path / "gone on") == [None, None]
    last = Loop()
    evaluate(last, tmp_path / "gone on")
    assert len(last.asked) == 5
    assert (tmp_path / "gone on" / "trajectories.jsonl").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "gone on").iterdir()) == ["summary.json", "trajectories.jsonl"]


def test_a_suite_is_asked_for_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_AT_ONCE", 4)
    loop = Loop()
    evaluate(loop, tmp_path)
    assert loop.sizes == [4, 4, 2]
    assert ids_in(tmp_path) == ALL


def test_forgetting_leaves_nothing_of_it(tmp_path):
    evaluate(Loop(), tmp_path)
    forget_evaluation(tmp_path)
    assert list(tmp_path.iterdir()) == []
