import pytest

from tspo.evaluation.report.headline import changes, sentence, signed, stages, table
from tspo.evaluation.report.run_files import read_run


def test_the_sentence_says_what_was_run(make_run):
    assert sentence(read_run(make_run())) == (
        "some/model, warmed up for 2 epochs, trained with TSPO for 3 of 3 steps (2 questions × G = 3 trajectories each)"
        " on hops_train.jsonl; tested on hops_test.jsonl."
    )


def test_the_sentence_leaves_out_what_is_not_known(make_run):
    assert sentence(read_run(make_run(settings={}))) == "A model, trained for 3 steps."
    assert sentence(read_run(make_run("b", {"seed": 1}, [], steps={}))) == "A model, trained."


def test_the_embedded_world_is_named(make_run):
    run = read_run(make_run(settings={"data": {"train": [], "world": {"train_questions": 600}}}))
    assert sentence(run) == "A model, trained for 3 steps on 600 questions of the embedded world."


def test_a_run_that_was_stopped_says_so(make_run, make_group):
    settings = {"training": {"steps": 100}, "data": {"train": [f"{n}.jsonl" for n in range(6)]}}
    run = read_run(make_run(settings=settings, lines=[{"step": 1}], steps={7: make_group("a", "wrong")}))
    said = sentence(run)
    assert "for 7 of 100 steps" in said  # the rollout of a step is written before its metrics
    assert "on 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl and 2 more files" in said


@pytest.mark.parametrize("settings", [{"model": None, "training": 3, "data": [1], "credit": None, "warmup": "x"}])
def test_settings_of_another_shape_do_no_harm(settings, make_run):
    assert sentence(read_run(make_run(settings=settings))) == "A model, trained for 3 steps."


def test_stages_are_in_order_and_on_a_scale(make_run):
    found = stages(read_run(make_run()))
    assert [(stage.name, stage.mean) for stage in found] == [
        ("before", "0.000"),
        ("after warm-up", "0.000"),
        ("after training", "0.500"),
    ]
    assert (found[2].interval, found[2].at, found[2].low, found[2].high) == ("[0.000, 1.000]", 50.0, 0.0, 100.0)


def test_the_table_has_all_questions_and_then_each_source(make_run):
    rows = table(read_run(make_run()))
    assert [row.source for row in rows if row.rows_of_source] == ["all", "one hop", "two hops"]
    assert [row.stage for row in rows[:3]] == ["before", "after warm-up", "after training"]
    last = rows[5]
    assert (last.source, last.stage, last.questions, last.rows_of_source) == ("one hop", "after training", 1, 0)
    assert [mean for mean, _ in last.cells] == ["1.000", "1.000", "1.000", "2.00", "3.00"]


def test_one_source_is_not_said_twice(make_run, make_group):
    rows = table(read_run(make_run(evaluations={"before": make_group("q1", "wrong")})))
    assert [row.source for row in rows] == ["all"]


def test_changes_are_paired_over_the_questions_of_both(make_run, make_group):
    before = [*make_group("q1", "wrong"), *make_group("q2", "right"), *make_group("q3", "wrong")]
    after = [*make_group("q1", "right"), *make_group("q2", "right")]
    (change,) = changes(read_run(make_run(evaluations={"before": before, "after-training": after})))
    assert (change.before, change.after, change.questions) == ("before", "after training", 2)
    assert (change.difference, change.interval) == ("+0.500", "[0, +1.000]")
    assert "includes 0" in change.reading


def test_what_training_changed_comes_before_what_all_of_it_did(make_run):
    assert [change.before for change in changes(read_run(make_run()))] == ["after warm-up", "before"]


def test_a_clear_change_is_called_one(make_run, make_group):
    evaluations = {
        stage: [one for q in range(9) for one in make_group(f"q{q}", ending)]
        for stage, ending in (("before", "wrong"), ("after-training", "right"))
    }
    (change,) = changes(read_run(make_run(evaluations=evaluations)))
    assert change.reading == "The interval does not include 0."


def test_no_change_without_the_last_stage_or_common_questions(make_run, make_group):
    first, other = make_group("q1", "wrong"), make_group("q2", "wrong")
    assert changes(read_run(make_run("a", evaluations={"before": first, "after-warm-up": first}))) == []
    assert changes(read_run(make_run("b", evaluations={"before": first, "after-training": other}))) == []


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0"), (-0.0, "0"), (0.5, "+0.50"), (-1.789, "−1.79"), (1e-9, "+0.00")]
)
def test_numbers_carry_their_sign(value, shown):
    assert signed(value, 2) == shown
