"""What tells a person, or a program, about an episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tspo.ask.sources import Source, Sources
from tspo.rollout.watcher import Watcher
from tspo.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Ending:
    """An episode that is over: `sources` hold the answer, of the `passages_read` passages that were read."""

    trajectory: Trajectory
    sources: list[Source]
    passages_read: int
    seconds: float

    @property
    def searches(self) -> int:
        """Searches that came back with something to read."""
        return sum(turn.feedback is not None for turn in self.trajectory.turns)

    @property
    def tokens(self) -> int:
        """Tokens that the policy sampled."""
        return sum(len(turn.token_ids or ()) for turn in self.trajectory.turns)


class Teller(Protocol):
    """Tells of one episode after the other."""

    def begin(self, question: str, sources: Sources) -> Watcher:
        """A question is asked; what is returned follows its episode and puts what is found into `sources`."""
        ...

    def end(self, ending: Ending) -> None:
        """The episode is over."""
        ...

    def stopped(self) -> None:
        """A person has stopped the episode."""
        ...
