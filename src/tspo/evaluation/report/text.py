"""Text from models and passages made fit to be shown: nothing invisible in it, nothing endless, tags told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tspo.protocol import TAGS

# Control characters but for tab and newline, halves of surrogate pairs (which UTF-8 cannot hold), and the marks that
# turn the direction of the text around them.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
TAG = re.compile(rf"(</?(?:{'|'.join(TAGS)})>)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: as it is, a tag of the protocol, the answer that was found, or a note on what is left out."""

    kind: Literal["text", "tag", "mark", "cut"]
    text: str


def clean(text: str) -> str:
    """`text` with every character that cannot be seen, or must not be written, replaced by its number."""
    return _UNSEEN.sub(lambda match: f"‹U+{ord(match.group()):04X}›", text.replace("\r\n", "\n"))


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters, and how many more there were."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def cut(text: str, limit: int, mark: tuple[int, int] | None = None) -> list[Piece]:
    """About `limit` characters of `text`; what is left out is told, and a marked stretch is never left out."""
    pieces: list[Piece] = []
    end = 0
    for start, stop in _kept(len(text), limit, mark):
        if start > end:
            pieces.append(_left_out(start - end))
        pieces += _marked(text, start, stop, mark)
        end = stop
    if end < len(text):
        pieces.append(_left_out(len(text) - end))
    return pieces


def split_tags(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with the protocol's tags as pieces of their own."""
    split: list[Piece] = []
    for piece in pieces:
        parts = TAG.split(piece.text) if piece.kind == "text" else []
        split += [Piece("tag" if i % 2 else "text", part) for i, part in enumerate(parts) if part] or [piece]
    return split


def _kept(length: int, limit: int, mark: tuple[int, int] | None) -> Sequence[tuple[int, int]]:
    if length <= limit:
        return [(0, length)]
    if mark is None or mark[1] <= limit:
        return [(0, limit)]
    start = max(mark[0] - limit // 4, 0)
    return [(0, min(limit // 2, start)), (start, min(mark[1] + limit // 4, start + limit // 2, length))]


def _marked(text: str, start: int, stop: int, mark: tuple[int, int] | None) -> list[Piece]:
    if mark is None or mark[0] >= stop or mark[1] <= start:
        return [Piece("text", text[start:stop])]
    first, last = max(mark[0], start), min(mark[1], stop)
    parts = [Piece("text", text[start:first]), Piece("mark", text[first:last]), Piece("text", text[last:stop])]
    return [part for part in parts if part.text]


def _left_out(characters: int) -> Piece:
    return Piece("cut", f"{characters:,} characters left out")
