"""The retriever that a run's settings ask for."""

from __future__ import annotations

from pathlib import Path

from tspo.cache_folder import cache_dir
from tspo.config import RolloutSection
from tspo.retrieval.base import Retriever
from tspo.retrieval.call_settings import CallSettings
from tspo.retrieval.places import identity_of, is_remote, open_place, open_remote
from tspo.retrieval.query_cache import cached

_FIRST_DEADLINE = 20.0
_FIRST_QUERY = "What is the capital of France?"


def retriever_of(rollout: RolloutSection, corpus: Path | None) -> Retriever:
    """`rollout.retriever` behind its cache, or BM25 over `corpus`, which must be there where the settings name none.

    Raises BadInput where it cannot be used. A service is asked once, so that a wrong address is found at the start.
    """
    place = rollout.retriever
    if place is None:
        from tspo.retrieval.bm25 import cached_bm25

        assert corpus is not None  # the settings were checked
        return cached_bm25(corpus, cache_dir() / "indexes")
    retriever = _working_service(place, rollout) if is_remote(place) else open_place(place)
    if (cache := rollout.query_cache) is None:
        return retriever
    return cached(retriever, identity_of(place, retriever), cache.entries, cache.path)


def _working_service(place: str, rollout: RolloutSection) -> Retriever:
    deadline = rollout.retriever_deadline
    open_remote(place, CallSettings(deadline=min(deadline, _FIRST_DEADLINE))).search([_FIRST_QUERY], 1)
    return open_remote(place, CallSettings(deadline=deadline, give_up_after=rollout.retriever_give_up_after))
