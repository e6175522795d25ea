from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.retrieval.base import Passage
from tspo.retrieval.hybrid import HybridRetriever, reciprocal_rank_fusion

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4)


@given(RANKINGS)
def test_each_item_scores_the_sum_of_its_reciprocal_ranks(rankings):
    fused = dict(reciprocal_rank_fusion(rankings))
    assert set(fused) == {item for ranking in rankings for item in ranking}
    for item, score in fused.items():
        exact = sum(Fraction(1, 61 + ranking.index(item)) for ranking in rankings if item in ranking)
        assert score == pytest.approx(float(exact))


@given(RANKINGS)
def test_the_best_come_first(rankings):
    scores = [score for _, score in reciprocal_rank_fusion(rankings)]
    assert scores == sorted(scores, reverse=True)


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.integers(1, 4))
def test_rankings_that_agree_stay_as_they_are(ranking, times):
    assert [item for item, _ in reciprocal_rank_fusion([ranking] * times)] == ranking


@given(RANKINGS.filter(bool), st.sampled_from("abcdefgh"))
def test_rising_in_one_ranking_never_costs_a_place(rankings, item):
    first = rankings[0]
    if item not in first or first.index(item) == 0:
        return
    place = first.index(item)
    risen = [*first[: place - 1], item, first[place - 1], *first[place + 1 :]]
    before = [name for name, _ in reciprocal_rank_fusion(rankings)]
    after = [name for name, _ in reciprocal_rank_fusion([risen, *rankings[1:]])]
    assert after.index(item) <= before.index(item)


def test_ties_go_to_the_better_rank_then_to_the_earlier_ranking():
    assert [item for item, _ in reciprocal_rank_fusion([["a", "b"], ["c", "d"]])] == ["a", "c", "b", "d"]


def test_an_item_named_twice_counts_once():
    assert reciprocal_rank_fusion([["a", "a", "b"]]) == [("a", 1 / 61), ("b", 1 / 62)]


class Fixed:
    """Answers every query with the same passages."""

    def __init__(self, *names):
        self.passages = [Passage(name, name.upper(), 9.0) for name in names]
        self.asked = []

    def search(self, queries, top_k):
        self.asked.append(top_k)
        return [self.passages[:top_k] if query else [] for query in queries]


def test_what_two_find_beats_what_one_finds():
    words, meaning = Fixed("a", "b", "c"), Fixed("d", "b")
    (found, nothing) = HybridRetriever([words, meaning]).search(["query", ""], 2)
    assert found == [Passage("b", "B", 2 / 62), Passage("a", "A", 1 / 61)]
    assert nothing == []


def test_each_is_asked_for_more_than_is_wanted():
    words, meaning = Fixed("a"), Fixed("b")
    hybrid = HybridRetriever([words, meaning], depth=50)
    hybrid.search(["query"], 3)
    hybrid.search(["query"], 70)
    assert words.asked == meaning.asked == [50, 70]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        HybridRetriever([Fixed("a")])
    with pytest.raises(ValueError, match="top_k"):
        HybridRetriever([Fixed("a"), Fixed("b")]).search(["query"], 0)
