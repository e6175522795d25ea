import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.retrieval import bm25_ranking
from tspo.retrieval.bm25_ranking import best_passages
from tspo.retrieval.bm25_writer import empty_index

WORDS = 40


def index_of(seed, passages):
    """bm25s's index over passages whose words are as unequally common as words are."""
    generator = np.random.default_rng(seed)
    common = 1 / np.arange(1, WORDS + 1) ** 1.5
    common /= common.sum()
    texts = [generator.choice(WORDS, generator.integers(1, 8), p=common).tolist() for _ in range(passages)]
    texts.append(list(range(WORDS)))
    vocabulary = {str(word): word for word in range(WORDS)}
    index = empty_index()
    index.index(bm25s.tokenization.Tokenized(texts, vocabulary), create_empty_token=False, show_progress=False)
    return index


def by_scoring_all(index, tokens, top_k):
    scores = index.get_scores_from_ids(tokens) if tokens else np.zeros(0, dtype=np.float32)
    places = np.flatnonzero(scores)
    order = np.lexsort((places, -scores[places]))[:top_k]
    return places[order], scores[places[order]]


@pytest.mark.parametrize("share", [300, 10, 0.001])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 20),
    tokens=st.lists(st.integers(0, WORDS - 1), max_size=6),
    top_k=st.integers(1, 12),
)
def test_the_best_are_those_of_scoring_all_to_the_last_bit(share, seed, tokens, top_k):
    index = index_of(seed, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_ranking, "_LARGE", 0)
        patch.setattr(bm25_ranking, "_SHARE", share)
        places, scores = best_passages(index.scores, np.array(tokens, dtype=np.int64), top_k)
    expected_places, expected_scores = by_scoring_all(index, tokens, top_k)
    np.testing.assert_array_equal(places, expected_places)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_rare_word_spares_scoring_all(monkeypatch):
    index = index_of(0, 3000)
    monkeypatch.setattr(bm25_ranking, "_LARGE", 0)
    monkeypatch.setattr(bm25_ranking, "_SHARE", 15)
    rare, common = WORDS - 1, 0
    having = np.diff(index.scores["indptr"])
    assert having[rare] < 200 < having[common]
    tokens = np.array([common, rare])
    found = bm25_ranking._among_rare(index.scores, tokens, 1)
    assert found is not None
    np.testing.assert_array_equal(found[0], by_scoring_all(index, tokens.tolist(), 1)[0])
    # among so many, some have none of the rare words
    assert bm25_ranking._among_rare(index.scores, tokens, 1000) is None
    assert bm25_ranking._among_rare(index.scores, tokens[:1], 1) is None
