from tspo.evaluation.report.next_steps import next_steps
from tspo.evaluation.report.run_files import read_run


def commands(run):
    return [step.command for step in next_steps(read_run(run)) if step.command]


def links(run):
    return [step.link for step in next_steps(read_run(run)) if step.link]


def test_a_run_that_ended_is_evaluated_not_resumed(make_run):
    run = make_run()
    (run / "model").mkdir()
    (run / "model/whole.json").write_text("{}")
    assert links(run) == ["model/", "metrics.jsonl", "trajectories/", "evaluation/", "config.yaml"]
    assert commands(run) == [
        "tspo evaluate config.yaml model=./model",
        "tspo credit trajectories/000003.jsonl --algorithm grpo",
        "tspo report .",
    ]


def test_a_run_that_was_stopped_is_resumed(make_run):
    run = make_run(evaluations={})
    assert links(run) == ["metrics.jsonl", "trajectories/", "config.yaml"]
    assert commands(run)[0] == "tspo train config.yaml --resume"
    (run / "verl").mkdir()
    assert commands(run)[0] == "tspo train --engine verl config.yaml --resume"


def test_a_folder_of_trajectories_is_credited(make_run):
    run = make_run(settings={}, lines=[], evaluations={})
    assert commands(run) == ["tspo credit trajectories/000003.jsonl --algorithm grpo", "tspo report ."]
