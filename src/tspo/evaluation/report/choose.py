"""Which groups and which held-out questions are worth a reader's time; the same run gives the same choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tspo.credit import Credit, CreditConfig, assign_credit, score
from tspo.trajectory import Group, Trajectory, group_trajectories

_STEPS_A_PHASE = 8
_GROUPS_A_PHASE = 2


class Kind(StrEnum):
    """What a group is an example of."""

    NEAR_MISS = "all wrong, near misses"
    """No answer is right, and TSPO prefers some turns to others all the same."""
    MIXED = "right and wrong"
    ALL_RIGHT = "all right"
    NOTHING = "all wrong, nothing to tell apart"
    """No answer is right, and nothing tells the trajectories apart."""


class State(StrEnum):
    """What became of one question."""

    RIGHT = "right"
    NEAR_MISS = "near miss"
    """The feedback held the answer; the answer given is wrong."""
    WRONG = "wrong"


_WANTED = {
    "early": (Kind.NEAR_MISS, Kind.MIXED, Kind.ALL_RIGHT),
    "middle": (Kind.MIXED, Kind.NEAR_MISS, Kind.ALL_RIGHT),
    "late": (Kind.ALL_RIGHT, Kind.MIXED, Kind.NEAR_MISS),
}
"""The kinds to look for in each phase of training, the most instructive there first."""

_TELLING_PAIRS = (
    (State.WRONG, State.RIGHT),
    (State.NEAR_MISS, State.RIGHT),
    (State.RIGHT, State.NEAR_MISS),
    (State.RIGHT, State.WRONG),
    (State.WRONG, State.NEAR_MISS),
    (State.NEAR_MISS, State.WRONG),
    (State.RIGHT, State.RIGHT),
    (State.NEAR_MISS, State.NEAR_MISS),
    (State.WRONG, State.WRONG),
)
"""Before and after, what has changed first; both gains and losses."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A group, where it is from, and its credit under each method: the run's own first."""

    step: int
    phase: str
    kind: Kind
    group: Group
    credits: dict[str, list[Credit]]


def methods(config: CreditConfig) -> list[str]:
    """The methods that are shown side by side: the run's own, if it needs no critic, then what it is compared with."""
    own = () if config.needs_critic else (config.algorithm,)
    return list(dict.fromkeys((*own, "tspo", "grpo")))


def choose_groups(
    steps: dict[int, Path], read: Callable[[Path], Sequence[Trajectory]], config: CreditConfig
) -> list[Chosen]:
    """Up to two groups of different kinds from the first steps, the middle ones and the last."""
    chosen = []
    for phase, numbers in _phases(list(steps)).items():
        candidates = [one for step in numbers for one in _describe(step, phase, read(steps[step]), config)]
        best = [
            max((one for one in candidates if one.kind is kind), key=_variety, default=None) for kind in _WANTED[phase]
        ]
        chosen += [one for one in best if one is not None][:_GROUPS_A_PHASE] or candidates[:1]
    return chosen


def state(trajectory: Trajectory, config: CreditConfig) -> State:
    """Right, a near miss, or wrong."""
    outcome, first = score(trajectory, config)
    return State.RIGHT if outcome == 1.0 else State.NEAR_MISS if first is not None else State.WRONG


def first_attempts(trajectories: Sequence[Trajectory]) -> dict[str, Trajectory]:
    """Each question's first trajectory."""
    return {group.group_id: group.trajectories[0] for group in group_trajectories(trajectories)}


def state_changes(
    before: dict[str, Trajectory], after: dict[str, Trajectory], config: CreditConfig
) -> dict[str, tuple[State, State]]:
    """The state before and after of every question that both have."""
    return {
        question: (state(before[question], config), state(after[question], config))
        for question in before
        if question in after
    }


def choose_questions(changes: dict[str, tuple[State, State]], most: int) -> list[str]:
    """Up to `most` questions: one of each kind of change, then second ones, as the file has them."""
    seen: Counter[Hashable] = Counter()
    ranked = []
    for place, (question, change) in enumerate(changes.items()):
        ranked.append((seen[change], _TELLING_PAIRS.index(change), place, question))
        seen[change] += 1
    return [question for _, _, _, question in sorted(ranked)[:most]]


def _phases(steps: list[int]) -> dict[str, list[int]]:
    size = min(_STEPS_A_PHASE, max(len(steps) // 3, 1))
    early = steps[:size]
    late = steps[max(len(steps) - size, size) :]
    between = steps[len(early) : len(steps) - len(late)]
    start = (len(between) - size + 1) // 2
    phases = {"early": early, "middle": between[max(start, 0) :][:size], "late": late}
    return {phase: numbers for phase, numbers in phases.items() if numbers}


def _describe(step: int, phase: str, trajectories: Sequence[Trajectory], config: CreditConfig) -> Iterator[Chosen]:
    """The groups of one step; credit is assigned over all of them, for a method may compare groups too."""
    assigned: dict[str, dict[str, list[Credit]]] = {}
    for method in methods(config):
        credits = assign_credit(trajectories, config.with_algorithm(method))
        for trajectory, credit in zip(trajectories, credits, strict=True):
            assigned.setdefault(trajectory.group_id, {}).setdefault(method, []).append(credit)
    for group in group_trajectories(trajectories):
        of_group = assigned[group.group_id]
        yield Chosen(step, phase, _kind(of_group["tspo"]), group, of_group)


def _kind(credits: Sequence[Credit]) -> Kind:
    right = sum(credit.outcome == 1.0 for credit in credits)
    if right == len(credits):
        return Kind.ALL_RIGHT
    if right:
        return Kind.MIXED
    return Kind.NEAR_MISS if any(credit.teaches for credit in credits) else Kind.NOTHING


def _variety(one: Chosen) -> tuple[int, int, int]:
    """More where a group's trajectories differ more in how they end; the earlier of two alike."""
    credits = one.credits["tspo"]
    endings = {(credit.outcome, credit.first_occurrence) for credit in credits}
    earning = sum(any(credit.turn_rewards) for credit in credits)
    return len(endings), min(earning, len(credits) - earning), -one.step
