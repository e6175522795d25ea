import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.errors import BadInput
from tspo.protocol import render_passages, split_passages
from tspo.rewards.evidence import evidence_rewards
from tspo.rewards.information_gain import information_gain_rewards
from tspo.rewards.search_r1 import keeps_format, search_r1_rewards
from tspo.rewards.stepsearch import stepsearch_rewards, tfidf_cosines
from tspo.trajectory import StopReason, Trajectory, Turn


def trajectory(answer, *feedbacks, logprobs=None, **extra):
    turns = [Turn("", feedback=feedback) for feedback in (*feedbacks, None)]
    for turn, logprob in zip(turns, logprobs or [], strict=False):
        turn.extra["answer_log_probability"] = logprob
    return Trajectory("q", "q-0", "Who?", ["Ann Lee"], turns, answer, StopReason.ANSWER, extra=extra)


def test_evidence_rewards_searching_finding_and_answering():
    assert evidence_rewards(trajectory("Ann Lee", "by Ann Lee", "nothing", None)) == [0.7, 0.2, 0.0, 1.5]
    assert evidence_rewards(trajectory("it is Ann Lee.")) == [0.5]
    assert evidence_rewards(trajectory(None, "Joann Leeds")) == [0.2, 0.0]
    assert evidence_rewards(trajectory(None, "Joann Leeds"), match="substring") == [0.7, 0.0]


def test_information_gain_is_the_rise_of_the_answers_probability():
    item = trajectory("Lee", "a", "b", logprobs=[math.log(0.2), math.log(0.5), math.log(0.1)])
    assert information_gain_rewards(item) == pytest.approx([0.3, -0.4, 2 / 3])
    assert information_gain_rewards(trajectory("Ann Lee", logprobs=[-3])) == [1.0]


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=6))
def test_information_gains_add_up_to_the_whole_rise(logprobs):
    item = trajectory("Bob", *["x"] * (len(logprobs) - 1), logprobs=logprobs)
    *gains, answer = information_gain_rewards(item)
    assert answer == 0.0
    assert sum(gains) == pytest.approx(math.exp(logprobs[-1]) - math.exp(logprobs[0]), abs=1e-12)


@pytest.mark.parametrize("bad", [None, "x", True, 0.5, math.nan])
def test_information_gain_wants_a_log_probability_in_every_turn(bad):
    item = trajectory("Lee", "a", logprobs=[-1.0, bad])
    with pytest.raises(BadInput, match="turn 1: reward information_gain needs 'answer_log_probability'"):
        information_gain_rewards(item)


@pytest.mark.parametrize("bad", [None, [], "text", [1]])
def test_stepsearch_wants_the_golden_passages(bad):
    with pytest.raises(BadInput, match="trajectory q-0: reward stepsearch needs 'supporting_passages'"):
        stepsearch_rewards(trajectory("Lee", "a", supporting_passages=bad))


def test_stepsearch_finding_all_evidence_earns_1_and_finding_it_again_costs_1():
    found = render_passages(['"River"\nThe River is by Ann Lee.'])
    item = trajectory(
        "Ann Lee", found, found, "No passage was found.\n", supporting_passages=["The River is by Ann Lee."]
    )
    assert stepsearch_rewards(item) == pytest.approx([1.0, -1.0, 0.0, 1.0])


words = st.lists(st.sampled_from(["river", "town", "novel", "mayor", "sea", "a", "i"]), max_size=6).map(" ".join)


@given(words, st.lists(words, min_size=1, max_size=4))
def test_tfidf_equals_scikit_learn(text, others):
    sklearn_text = pytest.importorskip("sklearn.feature_extraction.text")
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    if not any(len(word) > 1 for word in " ".join([text, *others]).split()):
        assert tfidf_cosines(text, others) == [0.0] * len(others)  # scikit-learn refuses it
        return
    matrix = sklearn_text.TfidfVectorizer().fit_transform([text, *others])
    np.testing.assert_allclose(
        tfidf_cosines(text, others), pairwise.cosine_similarity(matrix[0], matrix[1:])[0], atol=1e-12
    )


@given(words, st.lists(words, min_size=1, max_size=4), st.randoms())
def test_tfidf_cosines_are_symmetric_and_within_0_and_1(text, others, random):
    cosines = tfidf_cosines(text, others)
    assert all(0.0 <= one <= 1.0 + 1e-12 for one in cosines)
    order = list(range(len(others)))
    random.shuffle(order)
    shuffled = tfidf_cosines(text, [others[i] for i in order])
    assert shuffled == pytest.approx([cosines[i] for i in order])
    assert tfidf_cosines(others[0], [text, *others[1:]])[0] == pytest.approx(cosines[0])


def test_passages_come_back_out_of_feedback():
    contents = ['"Lover (film)"\nA film. (1961) \nDoc 9 is not one', "No quotes\nText.", '"Only a title"\n']
    assert split_passages(render_passages(contents)) == ["A film. (1961) \nDoc 9 is not one", "Text.", ""]
    assert split_passages("No passage was found.\n") == []


def test_format_wants_a_search_answered_and_an_answer_at_the_end():
    search, answer = "<think>a</think>\n<search>q</search>", "<think>b</think> <answer>c</answer>\n"
    assert keeps_format([Turn(answer)])
    assert keeps_format([Turn(search, feedback="x"), Turn(answer)])
    assert not keeps_format([Turn(search), Turn(answer)])
    assert not keeps_format([Turn(search, feedback="x")])
    assert not keeps_format([Turn(answer, feedback="x"), Turn(answer)])
    assert not keeps_format([Turn("<think>a <information>b</information></think><answer>c</answer>")])


def test_a_thought_that_the_template_opened_counts():
    """Qwen3's and R1's templates end with <think>, or with a thought that is closed already."""
    first, last = Turn("a</think><search>b</search>", feedback="x"), Turn("<think>a</think><answer>b</answer>")
    assert not keeps_format([first, last])
    assert keeps_format([first, last], "<think>\n")
    assert keeps_format([Turn("<answer>b</answer>")], "<think>\n\n</think>\n\n")
    assert not keeps_format([last, last], "<think>\n")
    shown = Trajectory("q", "q-0", "?", ["b"], [first, last], "b", StopReason.ANSWER, extra={"opened": "<think>\n"})
    assert search_r1_rewards(shown) == [1.0, 1.0]
    shown.extra.clear()
    assert search_r1_rewards(shown) == [0.8, 0.8]
