"""What follows one episode as it happens, for who waits in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tspo.retrieval.base import Passage, RetrieverError
from tspo.trajectory import Turn


class Watcher(Protocol):
    """Called in the rollout's event loop: every other episode waits until it returns."""

    def sampled(self, token_ids: Sequence[int]) -> None:
        """All tokens so far of the turn under way; only where the sampler's sessions stream."""
        ...

    def ended_turn(self, turn: Turn) -> None:
        """A turn that the policy has ended; where it holds a query, that search comes next."""
        ...

    def found(self, turn: Turn, passages: Sequence[Passage]) -> None:
        """What the search of `turn` found, best first; `turn.feedback` is what the policy reads of it."""
        ...

    def failed(self, turn: Turn, error: RetrieverError) -> None:
        """Why the search of `turn` found nothing; the episode ends with it."""
        ...
