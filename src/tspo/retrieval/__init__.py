"""Searching a corpus: one protocol, and the retrievers that speak it."""

from __future__ import annotations

from tspo.retrieval.base import Passage, Retriever, RetrieverError

__all__ = ["Passage", "Retriever", "RetrieverError"]
