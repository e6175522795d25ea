import json

import pytest

from tspo.errors import BadInput
from tspo.evaluation.metrics import summarize
from tspo.evaluation.report.run_files import read_run, read_summary
from tspo.evaluation.table import summary_to_json


def test_everything_that_is_there_is_read(make_run):
    run = read_run(make_run())
    assert run.settings["model"] == "some/model"
    assert [line["step"] for line in run.metrics] == [1, 2, 3]
    assert list(run.summaries) == list(run.evaluated) == ["before", "after-warm-up", "after-training"]
    assert list(run.steps) == [1, 2, 3]
    assert run.summaries["before"] == summarize(run.evaluated["before"])


def test_summaries_are_read_as_they_were_written(make_run):
    run = make_run()
    path = run / "evaluation/after-training/summary.json"
    assert summary_to_json(read_summary(path)) == json.loads(path.read_text())


def test_what_is_missing_is_empty(make_run):
    run = read_run(make_run(settings={}, lines=[], evaluations={}))
    assert (run.settings, run.metrics, run.summaries, run.evaluated) == ({}, [], {}, {})
    assert list(run.steps) == [1, 2, 3]


def test_an_evaluation_that_was_cut_short_does_not_count(make_run):
    run = make_run()
    (run / "evaluation/after-training/summary.json").unlink()
    (run / "evaluation/before/trajectories.jsonl").unlink()
    read = read_run(run)
    assert list(read.summaries) == ["before", "after-warm-up"]
    assert list(read.evaluated) == ["after-warm-up"]


def test_a_line_of_metrics_cut_short_is_passed_over(make_run):
    run = make_run()
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "exact')
    assert [line["step"] for line in read_run(run).metrics] == [1, 2, 3]


def test_metrics_that_were_not_finite_are_missing(make_run):
    run = read_run(make_run(lines=[{"step": 1, "kl": None, "loss": 2, "name": "x", "flag": True}]))
    assert run.metrics == [{"step": 1.0, "loss": 2.0}]


def test_other_files_among_the_trajectories_are_left_alone(make_run):
    run = make_run()
    (run / "trajectories/notes.jsonl").write_text("not JSON")
    (run / "trajectories/.000002.jsonl.x.part").write_text("not JSON")
    assert list(read_run(run).steps) == [1, 2, 3]


@pytest.mark.parametrize("what", ["nothing", "a file", "an empty folder"])
def test_no_run(what, tmp_path):
    path = tmp_path / "run"
    if what == "a file":
        path.write_text("")
    elif what == "an empty folder":
        path.mkdir()
    with pytest.raises(BadInput, match=str(path)):
        read_run(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "- a list"),
        ("config.yaml", "\x00"),
        ("metrics.jsonl", "not JSON\n"),
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", '{"step": null}\n'),
        ("metrics.jsonl", '{"step": 1, "loss": 1' + 400 * "0" + "}\n"),
        ("evaluation/before/summary.json", "{"),
        ("evaluation/before/summary.json", "[" * 100_000),
        ("evaluation/before/summary.json", "[]"),
        ("evaluation/before/summary.json", '{"all": {}, "by_source": {}}'),
        ("evaluation/before/trajectories.jsonl", "{}\n"),
    ],
)
def test_a_damaged_file_is_named(path, text, make_run):
    run = make_run()
    (run / path).write_text(text)
    with pytest.raises(BadInput) as error:
        read_run(run)
    assert str(error.value).startswith(str(run / path))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(make_run):
    run = make_run()
    (run / "evaluation/before/trajectories.jsonl").unlink()
    (run / "evaluation/before/trajectories.jsonl").symlink_to(run / "evaluation/before/trajectories.jsonl")
    (run / "metrics.jsonl").write_bytes(b'{"step": 1, "\xff": 1}\n')
    with pytest.raises(BadInput, match=r"metrics\.jsonl"):
        read_run(run)
