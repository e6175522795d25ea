"""The passages that an answer may rest on, numbered as they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tspo.datasets.corpus import Document
from tspo.protocol import render_passages
from tspo.retrieval.base import Passage
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import Match
from tspo.rollout.codec import Codec


@dataclass(slots=True)
class Source:
    """A passage under its number (from 1); `read` is what the policy was shown of it, all searches together."""

    number: int
    id: str
    title: str
    text: str
    score: float
    read: str = ""


class Sources:
    """All passages of one episode; one that is found again keeps its number."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._by_id: dict[str, Source] = {}

    def add(self, passages: Sequence[Passage], feedback: str) -> list[Source]:
        """The sources that one search found, best first; `feedback` is what the policy reads of them."""
        found = []
        start = 0
        for count, passage in enumerate(passages, start=1):
            source = self._by_id.setdefault(passage.id, _source(passage, len(self._by_id) + 1))
            end = len(self._codec.neutral(render_passages([p.contents for p in passages[:count]])))
            part = feedback[start:end]
            start = end
            if part and part not in source.read:
                source.read += part
            found.append(source)
        return found

    @property
    def read(self) -> list[Source]:
        """The sources that the policy has read something of."""
        return [source for source in self._by_id.values() if source.read]

    def holding(
        self, answer: str | None, match: Match = "token", ignore: Sequence[str] = ("yes", "no")
    ) -> list[Source]:
        """The sources in whose read part the answer occurs, as FOLR compares; one that it ignores occurs in none."""
        if answer is None:
            return []
        return [source for source in self.read if first_occurrence([source.read], [answer], match, ignore) is not None]


def _source(passage: Passage, number: int) -> Source:
    text = passage.contents.partition("\n")[2].strip()
    return Source(number, passage.id, Document(passage.id, passage.contents).title, text, passage.score)
