"""An episode as JSON Lines: one event a line as it happens, the answer with its sources in the last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from tspo.ask.sources import Source, Sources
from tspo.ask.teller import Ending
from tspo.ask.turn_text import TurnText
from tspo.retrieval.base import Passage, RetrieverError
from tspo.trajectory import Turn


class JsonLines:
    """A `Teller`. Lines are ASCII: what a terminal would obey is written as \\u001b."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._turn = 0

    def begin(self, question: str, sources: Sources) -> JsonLines:
        """See `Teller`."""
        self._sources, self._turn = sources, 0
        self._write("question", question=question)
        return self

    def sampled(self, token_ids: Sequence[int]) -> None:
        """See `Watcher`; a turn is told when it has ended."""

    def ended_turn(self, turn: Turn) -> None:
        """See `Watcher`."""
        self._turn += 1
        pieces = TurnText().feed(turn.text)
        thought = " ".join(text.strip() for kind, text in pieces if kind == "think")
        self._write("turn", turn=self._turn, thought=thought, query=turn.query, text=turn.text)

    def found(self, turn: Turn, passages: Sequence[Passage]) -> None:
        """See `Watcher`."""
        found = self._sources.add(passages, turn.feedback or "")
        self._write("passages", turn=self._turn, passages=[_passage(source) for source in found])

    def failed(self, turn: Turn, error: RetrieverError) -> None:
        """See `Watcher`."""
        self._write("retriever_error", turn=self._turn, error=str(error))

    def end(self, ending: Ending) -> None:
        """See `Teller`."""
        self._write(
            "answer",
            answer=ending.trajectory.answer,
            sources=[_passage(source) for source in ending.sources],
            stop_reason=str(ending.trajectory.stop_reason),
            question=ending.trajectory.question,
            searches=ending.searches,
            passages_read=ending.passages_read,
            tokens=ending.tokens,
            seconds=round(ending.seconds, 3),
        )

    def stopped(self) -> None:
        """See `Teller`."""
        self._write("stopped")

    def _write(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event} | fields) + "\n")
        self._stream.flush()


def _passage(source: Source) -> dict[str, Any]:
    return {name: value for name, value in asdict(source).items() if name != "read"}
