"""Whether an id was there before, at eight bytes an id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RECENT = 1 << 16


class UniqueIds:
    """Finds ids that come twice in a stream; those of long ago it remembers by their hashes.

    Two ids may have the same hash, so that a suspicion about the past is for the caller to check.
    """

    def __init__(self, recent: int = _RECENT) -> None:
        self._limit = recent
        self._recent: dict[str, str] = {}
        self._past: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # sorted

    def add(self, identifier: str, where: str) -> bool:
        """Remember an id and its place; False where it is among the recent ones."""
        if identifier in self._recent:
            return False
        self._recent[identifier] = where
        return True

    @property
    def full(self) -> bool:
        """Whether it is time to call `suspects`."""
        return len(self._recent) >= self._limit

    def suspects(self) -> list[tuple[str, str]]:
        """The recent ids, with their places, that may have come before them; recent ones become the past."""
        hashes = np.fromiter(map(hash, self._recent), np.int64, len(self._recent))
        # two recent ids of one hash are different ids
        places = np.searchsorted(self._past, hashes)
        known = np.append(self._past, 0)[places] == hashes
        known &= places < len(self._past)
        found = [entry for entry, is_known in zip(self._recent.items(), known.tolist(), strict=True) if is_known]
        # stable sorting merges two sorted runs in one pass
        self._past = np.sort(np.concatenate([self._past, np.sort(hashes)]), kind="stable")
        self._recent = {}
        return found
