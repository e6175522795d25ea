import json

import numpy as np
import pytest

from tspo.errors import BadInput
from tspo.evaluation.run_results import Curve, common_questions, common_steps, read_run, score_tables


def curve(steps, values):
    return Curve(np.array(steps), np.array(values))


def test_a_run_is_read_back(tmp_path, write_finished_run):
    write_finished_run(tmp_path / "run", [0.0, 0.5], {"q1": 1.0, "q2": 0.0}, source=lambda question: f"s-{question}")
    run = read_run(tmp_path / "run")
    assert run.scores["q1"] == {"exact_match": 1.0, "f1": 1.0, "answer_in_feedback": 1.0, "searches": 1.0}
    assert run.scores["q2"]["exact_match"] == 0.0
    assert run.sources == {"q1": "s-q1", "q2": "s-q2"}
    assert run.curves["exact_match"].steps.tolist() == [1, 2]
    assert run.curves["exact_match"].values.tolist() == [0.0, 0.5]
    assert "step" not in run.curves


def test_a_step_without_a_value_is_no_point_of_the_curve(tmp_path, write_finished_run):
    write_finished_run(tmp_path / "run", [0.0, 0.5, 1.0], grad_norm=[1.0, None, 3.0])
    shown = read_run(tmp_path / "run").curves["grad_norm"]
    assert shown.steps.tolist() == [1, 3]
    assert shown.values.tolist() == [1.0, 3.0]


def test_a_question_scores_the_mean_of_its_trajectories(tmp_path, write_finished_run):
    write_finished_run(tmp_path / "run", scores={"q": 1.0})
    path = tmp_path / "run" / "evaluation" / "after-training" / "trajectories.jsonl"
    line = json.loads(path.read_text())
    wrong = line | {"turns": [{"text": "<answer>Bob</answer>"}]}
    path.write_text(f"{json.dumps(line)}\n{json.dumps(wrong)}\n")
    assert read_run(tmp_path / "run").scores["q"]["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.jsonl", None, "cannot read"),
        ("metrics.jsonl", "{}\n", "line 1: not a line of metrics"),
        ("metrics.jsonl", '{"step": 1', "line 1: not JSON"),
        ("evaluation/after-training/trajectories.jsonl", None, "cannot read"),
        ("evaluation/after-training/trajectories.jsonl", "[]\n", "line 1"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path, write_finished_run, name, text, told):
    write_finished_run(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    if text is not None:
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(BadInput, match=told) as error:
        read_run(tmp_path / "run")
    assert name in str(error.value)


def test_only_common_steps_and_questions_are_compared(tmp_path, write_finished_run):
    steps, table = common_steps([curve([1, 2, 3], [0.1, 0.2, 0.3]), curve([2, 3, 4], [0.5, 0.6, 0.7])])
    assert steps.tolist() == [2, 3]
    assert table.tolist() == [[0.2, 0.3], [0.5, 0.6]]

    source = {"a": "nq", "b": "nq", "c": "musique"}.get
    write_finished_run(tmp_path / "one", scores={"c": 1.0, "a": 1.0}, source=source)
    write_finished_run(tmp_path / "two", scores={"b": 1.0, "c": 0.0, "a": 1.0}, source=source)
    runs = [read_run(tmp_path / name) for name in ("one", "two")]
    assert common_questions(runs) == ["a", "c"]
    assert common_questions(runs, "musique") == ["c"]
    assert score_tables(runs, ["a", "c"])[0].tolist() == [[1.0, 1.0], [1.0, 0.0]]
