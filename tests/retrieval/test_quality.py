import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.retrieval.base import Passage
from tspo.retrieval.quality import question_qualities, recall_at, reciprocal_rank

TITLES = st.lists(st.sampled_from("abcdef"), max_size=8)
SUPPORTING = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4)


@given(TITLES, SUPPORTING, st.integers(1, 9))
def test_recall_rises_with_k_to_all_that_is_there(titles, supporting, k):
    shares = [recall_at(titles, supporting, n) for n in range(1, 10)]
    assert shares == sorted(shares)
    assert shares[-1] == sum(title in titles for title in set(supporting)) / len(set(supporting))
    assert 0 <= recall_at(titles, supporting, k) <= 1


@given(TITLES, SUPPORTING)
def test_the_reciprocal_rank_and_recall_agree(titles, supporting):
    value = reciprocal_rank(titles, supporting)
    if value == 0:
        assert recall_at(titles, supporting, len(titles)) == 0
    else:
        rank = round(1 / value)
        assert titles[rank - 1] in supporting
        assert recall_at(titles, supporting, rank - 1) == 0


class Library:
    """Answers with the titles that are given for a query."""

    def __init__(self, answers):
        self.answers = answers
        self.batches = []

    def search(self, queries, top_k):
        self.batches.append((len(queries), top_k))
        return [
            [Passage(str(n), f'"{title}"\ntext', 1.0) for n, title in enumerate(self.answers[query][:top_k])]
            for query in queries
        ]


def question(identifier, *titles):
    return Question(identifier, identifier, ("x",), "source", titles)


def test_titles_are_compared_in_their_normal_form():
    library = Library({"q": ["Other", "Simon & Simon", "Rome"]})
    (quality,) = question_qualities(library, [question("q", "Simon &amp; Simon", " Rome")], [1, 2, 3])
    assert quality.recall == {1: 0.0, 2: 0.5, 3: 1.0}
    assert quality.reciprocal_rank == 0.5
    assert quality.data_source == "source"
    assert library.batches == [(1, 3)]


def test_questions_without_titles_are_left_out_and_many_come_in_batches():
    names = [f"q{n}" for n in range(150)]
    library = Library({name: ["A"] for name in names})
    qualities = question_qualities(library, [*(question(name, "A") for name in names), question("none")], [1])
    assert [quality.recall[1] for quality in qualities] == [1.0] * 150
    assert [size for size, _ in library.batches] == [64, 64, 22]


def test_no_titles_at_all_is_bad_input():
    with pytest.raises(BadInput, match="supporting_titles"):
        question_qualities(Library({}), [question("q")], [1])
