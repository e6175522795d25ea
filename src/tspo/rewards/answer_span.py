"""Where in a feedback's own characters a golden answer stands, for the eye; whether it does is FOLR's to say."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tspo.rewards.matching import Match, normalize_answer
from tspo.scripts import apart, clusters

_ARTICLES = frozenset({"a", "an", "the"})
_WORD = re.compile(r"\w+|\W+")


def answer_span(
    text: str, golden_answers: Iterable[str], match: Match = "token", ignore: Iterable[str] = ("yes", "no")
) -> tuple[int, int] | None:
    """Start and end of the earliest golden answer in `text`, compared as `first_occurrence` compares, or None."""
    ignored = {normalize_answer(answer) for answer in ignore}
    answers = {normalize_answer(answer) for answer in golden_answers} - ignored - {""}
    if not answers:
        return None
    normalized, places = _normalized(text)
    spans = []
    for answer in answers:
        found = f" {normalized} ".find(f" {answer} ") if match == "token" else normalized.find(answer)
        if found >= 0:
            spans.append((places[found][0], places[found + len(answer) - 1][1]))
    return min(spans, default=None)


def _normalized(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`normalize_answer(text)`, and from where to where in `text` is what each of its characters comes from."""
    # each cluster by itself, so that it is known where in the text what becomes of it comes from
    origins: list[tuple[int, int]] = []
    shown = ""
    start = 0
    for cluster in clusters(text):
        span, start = (start, start + len(cluster)), start + len(cluster)
        for character in apart(cluster):
            shown += character
            # A letter may have two in lower case (\u0130); how many does not depend on what is beside it.
            origins += [span] * len(character.lower())
    kept = [pair for pair in zip(origins, shown.lower(), strict=True) if pair[1] not in string.punctuation]
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
