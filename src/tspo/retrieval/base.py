"""What every retriever gives and promises, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class RetrieverError(Exception):
    """The retriever did not answer: the service is away, or its reply cannot be read."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One hit: a corpus entry (`contents` is the quoted title, a line break, the text) and its score."""

    id: str
    contents: str
    score: float


class Retriever(Protocol):
    """Anything that can be asked for passages."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        """For each query at most `top_k` passages, best first; raises RetrieverError."""
        ...
