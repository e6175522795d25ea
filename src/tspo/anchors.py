"""The states that turns began in: what the environment last showed, the same for all turns that saw the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from tspo.trajectory import Trajectory


def anchor_states(trajectories: Sequence[Trajectory], similarity: float = 1.0) -> list[list[int]]:
    """A label for each turn: equal for turns of one group that began in the same state, of no two groups.

    The state of turn k is the feedback before it, that of the first turn the question. Below `similarity` 1, a state
    joins the first state of its group that is at least that much alike (`difflib`'s ratio), as verl-agent has it for
    search (GiGPO, arXiv 2505.10978).
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    found: dict[tuple[str, str], int] = {}
    labels = []
    for trajectory in trajectories:
        known = groups.setdefault(trajectory.group_id, [])
        row = []
        for state in [trajectory.question, *(turn.feedback or "" for turn in trajectory.turns[:-1])]:
            key = (trajectory.group_id, state)
            if key not in found:
                alike = None if similarity == 1.0 else _alike(state, known, similarity)
                found[key] = len(found) if alike is None else alike
                if alike is None:
                    known.append((state, found[key]))
            row.append(found[key])
        labels.append(row)
    return labels


def _alike(state: str, known: Iterable[tuple[str, int]], similarity: float) -> int | None:
    from rapidfuzz.distance import LCSseq  # costs as much as the rest of the command line together

    for other, label in known:
        # What difflib matches is a common subsequence: the longest one bounds its ratio, and is found far sooner.
        at_most = 2.0 * LCSseq.similarity(state, other) / (len(state) + len(other))
        if at_most >= similarity and SequenceMatcher(None, state, other).ratio() >= similarity:
            return label
    return None
