"""Where in a feedback's own characters a golden answer stands, for the eye; whether it does is FOLR's to say."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tspo.rewards.matching import Match, normalize_answer

_ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"\w+|\W+")


def answer_span(
    text: str, golden_answers: Iterable[str], match: Match = "token", ignore: Iterable[str] = ("yes", "no")
) -> tuple[int, int] | None:
    """Start and end of the earliest golden answer in `text`, compared as `first_occurrence` compares, or None.

    None also in the rare text whose characters change in number as they are made lower case.
    """
    ignored = {normalize_answer(answer) for answer in ignore}
    answers = {normalize_answer(answer) for answer in golden_answers} - ignored - {""}
    lowered = text.lower()
    if not answers or len(lowered) != len(text):
        return None
    normalized, places = _normalized(lowered)
    spans = []
    for answer in answers:
        found = f" {normalized} ".find(f" {answer} ") if match == "token" else normalized.find(answer)
        if found >= 0:
            spans.append((places[found], places[found + len(answer) - 1] + 1))
    return min(spans, default=None)


def _normalized(lowered: str) -> tuple[str, list[int]]:
    """`normalize_answer` of a lower-case text, and the place in it that each character comes from."""
    kept = [(place, character) for place, character in enumerate(lowered) if character not in string.punctuation]
    characters, places = [], []
    start = 0
    for part in _WORD.findall("".join(character for _, character in kept)):
        stretch = kept[start : start + len(part)]
        start += len(part)
        if part in _ARTICLES:
            stretch = [(stretch[0][0], " ")]
        for place, character in stretch:
            if not character.isspace():
                characters.append(character)
                places.append(place)
            elif characters and characters[-1] != " ":
                characters.append(" ")
                places.append(place)
    if characters and characters[-1] == " ":
        characters.pop()
    return "".join(characters), places
