import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.errors import BadInput
from tspo.evaluation.metrics import METRICS, bootstrap_interval, score_trajectory, summarize
from tspo.trajectory import StopReason, Trajectory, Turn

finite = st.floats(-1e6, 1e6)


def trajectory(group_id, answer, feedbacks=(), source=None, stop_reason=StopReason.ANSWER):
    """Searches with these feedbacks (None: asked and not run), then a last turn without a search."""
    turns = [Turn("<search>x</search>", query="x", feedback=feedback) for feedback in feedbacks]
    return Trajectory(
        group_id=group_id,
        trajectory_id="t",
        question="Who?",
        golden_answers=["Jane Doe"],
        turns=[*turns, Turn(f"<answer>{answer}</answer>")],
        answer=answer,
        stop_reason=stop_reason,
        extra={} if source is None else {"data_source": source},
    )


@given(st.lists(finite, min_size=1, max_size=30), st.integers(0, 3))
def test_the_interval_holds_the_mean_and_stays_within_the_values(values, seed):
    low, high = bootstrap_interval(values, samples=2000, seed=seed)
    slack = 1e-9 * (1 + np.max(np.abs(values)))
    assert low - slack <= np.mean(values) <= high + slack
    assert min(values) - slack <= low <= high <= max(values) + slack


@given(finite, st.integers(1, 50))
def test_equal_values_have_no_width(value, count):
    assert bootstrap_interval([value] * count) == (value, value)


@given(st.lists(finite, min_size=2, max_size=20), st.integers(0, 5))
def test_the_seed_decides(values, seed):
    assert bootstrap_interval(values, samples=200, seed=seed) == bootstrap_interval(values, samples=200, seed=seed)


def test_another_seed_is_another_draw():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_interval(values, samples=200, seed=0) != bootstrap_interval(values, samples=200, seed=1)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=30))
def test_the_order_of_the_values_does_not_matter(values):
    assert bootstrap_interval(values, samples=200) == bootstrap_interval(values[::-1], samples=200)


def test_more_confidence_is_wider():
    values = np.random.default_rng(0).normal(size=50)
    narrow, wide = bootstrap_interval(values, confidence=0.5), bootstrap_interval(values, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_interval_is_that_of_resampling_indices():
    values = np.random.default_rng(1).choice([0.0, 0.2, 0.5, 1.0], size=80)
    drawn = values[np.random.default_rng(2).integers(0, 80, (20_000, 80))].mean(axis=1)
    expected = np.quantile(drawn, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(values, samples=20_000), expected, atol=0.01)


def test_the_interval_of_normal_values_has_the_textbook_width():
    values = np.random.default_rng(3).normal(size=2000)
    low, high = bootstrap_interval(values)
    standard_error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], values.mean() + 1.96 * standard_error * np.array([-1, 1]), atol=0.003)


@pytest.mark.parametrize("values", [[], [[1.0]], 1.0, [float("nan")], [1.0, float("inf")]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="non-empty, one-dimensional array of finite numbers"):
        bootstrap_interval(values)


def test_scores_of_one_trajectory():
    scores = score_trajectory(trajectory("q", "the jane", ["nothing", "by Jane Doe.", None]))
    assert scores.exact_match == 0.0
    assert scores.f1 == pytest.approx(2 / 3)
    assert scores.answer_in_feedback == 1.0
    assert (scores.turns, scores.searches, scores.search_share) == (4, 2, 0.75)


def test_no_answer_and_no_search_score_zero():
    scores = score_trajectory(trajectory("q", None, stop_reason=StopReason.NO_ACTION))
    assert scores.exact_match == scores.f1 == scores.answer_in_feedback == scores.searches == 0.0
    assert (scores.turns, scores.search_share) == (1, 0.0)


def test_questions_count_alike_however_many_trajectories_they_have():
    right = [trajectory("a", "Jane Doe") for _ in range(3)]
    summary = summarize([*right, trajectory("b", "Mary", stop_reason=StopReason.MAX_TOKENS)])
    overall = summary.overall
    assert (overall.questions, overall.trajectories) == (2, 4)
    assert overall.metrics["exact_match"].mean == 0.5
    assert overall.stop_reasons == {"answer": 3, "max_tokens": 1}
    assert set(METRICS) - set(overall.metrics) == {"tokens"}
    assert summary.by_source == {}


def test_the_interval_is_over_questions_and_not_over_trajectories():
    answers = ["Jane Doe", "Mary"] * 10
    once = summarize([trajectory(str(n), answer) for n, answer in enumerate(answers)])
    thrice = summarize([trajectory(str(n), answer) for n, answer in enumerate(answers) for _ in range(3)])
    assert once.overall.metrics == thrice.overall.metrics
    estimate = once.overall.metrics["exact_match"]
    assert estimate.low < estimate.mean < estimate.high


def test_sources_are_summarised_apart_where_they_are_known():
    members = [
        trajectory("a", "Jane Doe", source="nq"),
        trajectory("b", "Mary", source="hotpotqa"),
        trajectory("c", "Mary"),
    ]
    summary = summarize(members)
    assert list(summary.by_source) == ["hotpotqa", "nq"]
    assert summary.by_source["nq"].metrics["exact_match"].mean == 1.0
    assert summary.by_source["hotpotqa"].metrics["exact_match"].mean == 0.0
    assert summary.overall.questions == 3


def test_nothing_to_summarise_is_bad_input():
    with pytest.raises(BadInput, match="no trajectories"):
        summarize([])


def test_substring_match_and_tokens():
    one = trajectory("q", "It is Jane Doe, I think.", ["x"])
    assert score_trajectory(one).substring_match == 1.0
    assert np.isnan(score_trajectory(one).tokens)
    one.turns[0].token_ids, one.turns[1].token_ids = [1, 2], [3]
    assert score_trajectory(one).tokens == 3.0


def test_tokens_are_left_out_where_some_are_not_known():
    known, unknown = trajectory("a", "Jane Doe"), trajectory("b", "Jane Doe")
    known.turns[0].token_ids = [1, 2]
    assert "tokens" not in summarize([known, unknown]).overall.metrics
    assert summarize([known]).overall.metrics["tokens"].mean == 2.0


def test_the_macro_average_counts_sources_alike_and_resamples_within_them():
    answers = {"nq": ["Jane Doe"] * 30 + ["Mary"] * 10, "hotpotqa": ["Mary"] * 3 + ["Jane Doe"]}
    members = [
        trajectory(f"{source}{n}", answer, source=source)
        for source, given_answers in answers.items()
        for n, answer in enumerate(given_answers)
    ]
    summary = summarize(members)
    macro = summary.macro["exact_match"]
    assert macro.mean == pytest.approx((0.75 + 0.25) / 2)
    generator = np.random.default_rng(0)
    nq, hotpotqa = np.array([1.0] * 30 + [0.0] * 10), np.array([0.0] * 3 + [1.0])
    drawn = [(generator.choice(nq, 40).mean() + generator.choice(hotpotqa, 4).mean()) / 2 for _ in range(5000)]
    np.testing.assert_allclose([macro.low, macro.high], np.quantile(drawn, [0.025, 0.975]), atol=0.03)
    assert summarize(members[:40]).macro == {}


def test_hops_are_summarised_apart_where_they_are_known():
    members = [trajectory("a", "Jane Doe"), trajectory("b", "Mary"), trajectory("c", "Mary"), trajectory("d", "Mary")]
    for member, hops in zip(members, (1, 2, True, "2"), strict=True):
        member.extra["hops"] = hops
    by_hops = summarize(members).by_hops
    assert {hops: part.metrics["exact_match"].mean for hops, part in by_hops.items()} == {1: 1.0, 2: 0.0}


def test_pass_at_k_where_questions_were_tried_more_than_once():
    right = [trajectory("a", answer) for answer in ("Jane Doe", "Mary", "Mary", "Mary")]
    wrong = [trajectory("b", "Mary") for _ in range(4)]
    pass_at = summarize([*right, *wrong]).overall.pass_at
    assert {k: estimate.mean for k, estimate in pass_at.items()} == {1: 0.125, 2: 0.25, 4: 0.5}
    assert summarize(right[:1]).overall.pass_at == {}


def test_trajectories_are_read_one_at_a_time():
    assert summarize(trajectory(str(n), "Jane Doe") for n in range(3)).overall.questions == 3


def test_whether_the_answer_was_found_is_by_the_rule_of_the_run_that_the_trajectory_is_from():
    one = trajectory("q", "Bob", ["by Jane Doe"])
    assert score_trajectory(one).answer_in_feedback == 1.0
    one.extra["first_occurrence"] = None
    assert score_trajectory(one).answer_in_feedback == 0.0
    other = trajectory("q", "Bob", ["by Mary Jane Doering"])
    assert score_trajectory(other).answer_in_feedback == 0.0
    other.extra["first_occurrence"] = 0
    assert score_trajectory(other).answer_in_feedback == 1.0
