import json

import numpy as np
import pytest

from tspo.evaluation.compared_arms import ArmRuns, compare_arms
from tspo.evaluation.run_results import HELD_OUT, Curve, RunResult


def result(scores, curve=(0.0, 0.5, 1.0), source=lambda question: "wiki", **curves):
    """A run that scores `scores` by question in every held-out metric."""
    columns = {"exact_match": curve, "tokens_seen": [100.0 * (k + 1) for k in range(len(curve))], **curves}
    return RunResult(
        scores={question: dict.fromkeys(HELD_OUT, score) for question, score in scores.items()},
        sources={question: source(question) for question in scores},
        curves={name: Curve(np.arange(1, len(c) + 1), np.array(c)) for name, c in columns.items() if c is not None},
    )


def arm(*runs, seeds=None):
    return ArmRuns(dict(zip(seeds or range(len(runs)), runs, strict=True)), episodes_per_rollout=10)


def test_held_out_scores_of_each_seed_and_their_mean():
    report = compare_arms({"a": arm(result({"x": 1.0, "y": 0.0}), result({"x": 1.0, "y": 1.0}))}, 0.5)
    shown = report["arms"]["a"]["held_out"]
    assert shown["questions"] == 2
    assert shown["metrics"]["exact_match"]["per_seed"] == {"0": 0.5, "1": 1.0}
    assert shown["metrics"]["exact_match"]["mean"] == 0.75
    assert report["arms"]["a"]["held_out_by_source"] == {}
    assert report["differences"] == {}


def test_sources_are_compared_each_on_its_own():
    source = {"x": "one", "y": "two"}.get
    ours = arm(result({"x": 1.0, "y": 1.0}, source=source))
    theirs = arm(result({"x": 1.0, "y": 0.0}, source=source))
    report = compare_arms({"base": theirs, "new": ours}, 0.5)
    by_source = report["arms"]["base"]["held_out_by_source"]
    assert {name: part["metrics"]["f1"]["mean"] for name, part in by_source.items()} == {"one": 1.0, "two": 0.0}
    gaps = report["differences"]["new"]["held_out_by_source"]
    assert gaps["one"]["exact_match"]["absolute"]["mean"] == 0.0
    assert gaps["two"]["exact_match"]["absolute"]["mean"] == 1.0
    assert gaps["two"]["exact_match"]["relative"] is None


def test_when_the_target_was_reached():
    slow = result({"x": 1.0}, [0.0] * 6 + [1.0] * 6)  # five steps of mean 0.6 end at step 9
    never = result({"x": 1.0}, [0.0] * 12)
    learning = compare_arms({"a": arm(slow, slow, never)}, 0.6)["arms"]["a"]["learning"]
    assert learning["target"]["per_seed"]["0"] == {"steps": 9, "tokens": 900.0, "episodes": 90}
    assert learning["target"]["per_seed"]["2"] == {"steps": None, "tokens": None, "episodes": None}
    assert (learning["target"]["reached"], learning["target"]["seeds"]) == (2, 3)
    assert learning["target"]["median"] == {"steps": 9.0, "tokens": 900.0, "episodes": 90.0}
    assert learning["area"]["per_seed"] == {"0": 0.5, "1": 0.5, "2": 0.0}
    assert learning["spent"] == {"episodes": 120, "tokens": 1200.0}

    learning = compare_arms({"a": arm(slow, never)}, 0.6)["arms"]["a"]["learning"]
    assert learning["target"]["median"] == {"steps": None, "tokens": None, "episodes": None}


def test_runs_without_the_curve_have_no_learning_to_show():
    report = compare_arms({"a": arm(result({"x": 1.0}, [0.0], exact_match=None))}, 0.5)
    assert report["arms"]["a"]["learning"] is None
    assert "exact_match" not in report["arms"]["a"]["curves"]


def test_tokens_that_were_not_counted_are_left_out():
    report = compare_arms({"a": arm(result({"x": 1.0}, [1.0], tokens_seen=None))}, 0.5)
    learning = report["arms"]["a"]["learning"]
    assert learning["spent"]["tokens"] is None
    assert learning["target"]["per_seed"]["0"] == {"steps": 1, "tokens": None, "episodes": 10}


def test_the_signal_is_the_mean_over_the_seeds_that_have_it():
    runs = [result({"x": 1.0}, grad_norm=[1.0, 5.0, last]) for last in (2.0, 0.0)]
    runs[0].curves["all_wrong_share"] = Curve(np.array([2, 3]), np.array([0.5, 0.25]))
    signal = compare_arms({"a": arm(*runs)}, 0.5)["arms"]["a"]["signal"]
    assert list(signal) == ["all_wrong_share", "grad_norm"]
    assert signal["grad_norm"] == {"first": 1.0, "last": 1.0, "per_seed": {"0": [1.0, 2.0], "1": [1.0, 0.0]}}
    assert signal["all_wrong_share"] == {"first": None, "last": 0.25, "per_seed": {"0": [None, 0.25]}}


def test_curves_are_smoothed_and_one_seed_has_no_band():
    one, two = result({"x": 1.0}, [0.0] * 5 + [1.0]), result({"x": 1.0}, [1.0] * 6)
    curve = compare_arms({"a": arm(one, two)}, 0.5)["arms"]["a"]["curves"]["exact_match"]
    assert curve["x"] == [5, 6]
    assert curve["y"] == [0.5, 0.6]
    assert curve["low"] == pytest.approx([0.0, 0.2])
    assert curve["high"] == [1.0, 1.0]
    assert set(compare_arms({"a": arm(one)}, 0.5)["arms"]["a"]["curves"]["exact_match"]) == {"x", "y"}


def test_identical_arms_do_not_differ():
    runs = [result({"x": 1.0, "y": 0.0}), result({"x": 0.0, "y": 0.0})]
    difference = compare_arms({"base": arm(*runs), "same": arm(*runs)}, 0.5)["differences"]["same"]
    assert difference["held_out"]["exact_match"]["absolute"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert difference["area"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "seeds": 2}


def test_only_common_seeds_are_paired():
    good, bad = result({"x": 1.0}, [1.0] * 3), result({"x": 0.0}, [0.0] * 3)
    report = compare_arms({"base": arm(bad, good, seeds=[0, 1]), "new": arm(good, bad, seeds=[1, 2])}, 0.5)
    difference = report["differences"]["new"]
    assert difference["seeds"] == [1]
    assert difference["held_out"]["exact_match"]["absolute"]["mean"] == 0.0
    assert difference["area"] == {"mean": 0.0, "low": None, "high": None, "seeds": 1}


def test_arms_with_nothing_in_common_are_not_compared():
    run = result({"x": 1.0})
    assert compare_arms({"a": arm(run, seeds=[0]), "b": arm(run, seeds=[1])}, 0.5)["differences"] == {"b": None}
    other = result({"y": 1.0})
    assert compare_arms({"a": arm(run), "b": arm(other)}, 0.5)["differences"] == {"b": None}


def test_all_of_it_is_json():
    report = compare_arms({"a": arm(result({"x": 0.0})), "b": arm(result({"x": 1.0}))}, 0.5)
    text = json.dumps(report, allow_nan=False)
    assert json.dumps(json.loads(text)) == text
    assert json.loads(text)["differences"]["b"]["held_out"]["exact_match"]["simultaneous"] == [1.0, 1.0]
