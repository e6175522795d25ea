"""A turn's text in pieces that a screen can show while the rest is still being sampled."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from tspo.protocol import TAGS

Kind = Literal["text", "think", "search", "answer"]

_KINDS: dict[str, Kind] = {"think": "think", "search": "search", "answer": "answer"}
_TAG = re.compile(rf"<(/?)({'|'.join(TAGS)})>")
_ALL_TAGS = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]


class Piece(NamedTuple):
    """A stretch of a turn, and the tag that it stands in."""

    kind: Kind
    text: str


class TurnText:
    """Takes text as it comes and gives it in pieces, without tags; what may become a tag waits for its rest."""

    def __init__(self) -> None:
        self._kind: Kind = "text"
        self._waiting = ""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain now that `text` has come."""
        text = self._waiting + text
        pieces: list[Piece] = []
        end = 0
        for tag in _TAG.finditer(text):
            self._give(pieces, text[end : tag.start()])
            self._kind = "text" if tag[1] else _KINDS.get(tag[2], "text")
            end = tag.end()
        rest = text[end:]
        keep = _start_of_tag(rest)
        self._give(pieces, rest[: len(rest) - keep])
        self._waiting = rest[len(rest) - keep :]
        return pieces

    def end(self) -> list[Piece]:
        """What was waiting: it became no tag."""
        pieces: list[Piece] = []
        self._give(pieces, self._waiting)
        self._waiting = ""
        return pieces

    def _give(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(Piece(self._kind, text))


def _start_of_tag(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of a tag."""
    at = text.rfind("<")
    return len(text) - at if at >= 0 and any(tag.startswith(text[at:]) for tag in _ALL_TAGS) else 0
