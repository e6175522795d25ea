"""Several retrievers as one: their rankings are merged, whatever their scores mean."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

from tspo.retrieval.base import Passage, Retriever, check_top_k

Item = TypeVar("Item", bound=Hashable)

_K = 60.0
_DEPTH = 100


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Item]], k: float = _K) -> list[tuple[Item, float]]:
    """All items with the sum of 1 / (k + rank) over the rankings that have them, the best first.

    Ranks count from 1; in each ranking an item counts once, at its best rank. Items with the same sum are in the
    order of their best rank, then of the rankings.
    """
    sums: dict[Item, float] = {}
    best: dict[Item, tuple[int, int]] = {}
    for number, ranking in enumerate(rankings):
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            sums[item] = sums.get(item, 0.0) + 1 / (k + rank)
            best[item] = min(best.get(item, (rank, number)), (rank, number))
    return sorted(sums.items(), key=lambda entry: (-entry[1], best[entry[0]]))


class HybridRetriever:
    """The passages of several retrievers over one corpus, by reciprocal rank fusion; scores are its sums."""

    def __init__(self, retrievers: Sequence[Retriever], depth: int = _DEPTH) -> None:
        """`depth` is how many passages each is asked for, at least; raises ValueError for less than two retrievers."""
        if len(retrievers) < 2:
            raise ValueError("a hybrid needs at least two retrievers")
        self._retrievers = retrievers
        self._depth = depth

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages, best first; raises as the retrievers do."""
        check_top_k(top_k)
        answers = [retriever.search(queries, max(top_k, self._depth)) for retriever in self._retrievers]
        return [_fused(rankings, top_k) for rankings in zip(*answers, strict=True)]


def _fused(rankings: Sequence[list[Passage]], top_k: int) -> list[Passage]:
    contents = {passage.id: passage.contents for ranking in rankings for passage in ranking}
    fused = reciprocal_rank_fusion([[passage.id for passage in ranking] for ranking in rankings])
    return [Passage(identifier, contents[identifier], score) for identifier, score in fused[:top_k]]
