"""The best passages of a query over bm25s's index, in large corpora without scoring all of them.

The index holds for each token t the passages that have it and what each earns by it, at most idf(t). A passage with
none of the rare tokens earns at most the sum of the others' idf (MaxScore, Turtle and Flood 1995): where the k-th best
of those that have a rare one earns more, no other is among the best k.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE = 50_000
"""Passages from which on scoring all of them takes longer than looking for the few."""

_SHARE = 40
"""One posting of rare tokens for so many passages is looked at: with more of them, scoring all is as quick."""

_ROUNDING = 1.001
"""More than float32 sums can be off by."""

Ranked = tuple[NDArray[np.signedinteger[Any]], NDArray[np.float32]]
"""Places and scores of passages, best first, ties in corpus order."""


def best_passages(index: Mapping[str, Any], tokens: NDArray[np.int64], top_k: int) -> Ranked:
    """At most `top_k` passages that have one of the query's `tokens` (each as often as the query has it).

    `index` is bm25s's: `data` and `indices` (postings,), `indptr` (vocabulary + 1,), `num_docs`.
    The scores are bm25s's to the last bit, whichever way they are found.
    """
    if index["num_docs"] >= _LARGE and (found := _among_rare(index, tokens, top_k)) is not None:
        return found
    scores = np.zeros(index["num_docs"], dtype=np.float32)
    for token in tokens:
        having_it, earned = _postings(index, token)
        np.add.at(scores, having_it, earned)
    places = np.flatnonzero(scores)
    return _best(places, scores[places], top_k)


def _among_rare(index: Mapping[str, Any], tokens: NDArray[np.int64], top_k: int) -> Ranked | None:
    """The best passages where they must be among those with a rare token; None where others may be."""
    having = index["indptr"][tokens + 1] - index["indptr"][tokens]
    order = np.argsort(having, kind="stable")
    is_rare = np.zeros(len(tokens), dtype=np.bool_)
    is_rare[order] = np.cumsum(having[order]) <= index["num_docs"] // _SHARE
    if not is_rare.any():
        return None
    places = np.unique(np.concatenate([_postings(index, token)[0] for token in tokens[is_rare]]))
    if len(places) < top_k and not is_rare.all():
        return None
    scores = np.zeros(len(places), dtype=np.float32)
    for token in tokens:  # in the query's order, as sums of floats depend on it
        having_it, earned = _postings(index, token)
        at = np.searchsorted(having_it, places)
        at[at == len(having_it)] = 0
        hit = having_it[at] == places
        scores[hit] += earned[at[hit]]
    found = _best(places, scores, top_k)
    idf = np.log(1 + (index["num_docs"] - having + 0.5) / (having + 0.5))
    if is_rare.all() or found[1][-1] > _ROUNDING * idf[~is_rare].sum():
        return found
    return None


def _postings(index: Mapping[str, Any], token: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The places that have the token, in order, and what they earn by it."""
    part = slice(index["indptr"][token], index["indptr"][token + 1])
    return index["indices"][part], index["data"][part]


def _best(places: NDArray[np.signedinteger[Any]], scores: NDArray[np.float32], top_k: int) -> Ranked:
    if len(places) > top_k:
        # everything that ties with the last place stays, so that the stable sort decides by corpus order
        near = scores >= np.partition(scores, -top_k)[-top_k]
        places, scores = places[near], scores[near]
    order = np.argsort(-scores, kind="stable")[:top_k]
    return places[order], scores[order]
