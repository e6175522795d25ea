"""Names that nobody bears: words of a fixed lexicon, put together so that they share words as real names do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

_ONSETS = "b br d dr f g gr h k kl l m n p r s st t tr v".split()
_VOWELS = "a e i o u".split()
_CODAS = ("", "l", "n", "r", "s")
_TOWN_ENDINGS = ["bury", "dale", "field", "ford", "gate", "haven", "mere", "mouth", "stead", "ton", "vik", "wick"]
_REGION_ENDINGS = ["ania", "eria", "land", "mark", "ovia", "reach", "shire", "vale"]
_BRAND_ENDINGS = ["ax", "edge", "ium", "ora", "quest", "tech"]
_ADJECTIVES = """
Amber Ancient Bitter Black Blue Bright Broken Burning Crimson Distant Early Empty Fallen Forgotten Frozen Gentle
Gilded Golden Green Hidden Hollow Iron Ivory Last Late Little Lonely Long Lost Narrow Northern Pale Patient Quiet
Red Restless Scarlet Secret Silent Silver Sleeping Slow Stolen Strange Summer Sunken Third Velvet White Winter
""".split()
_NOUNS = """
Anchor Bell Bridge Candle Castle Circle Clock Crown Door Dream Echo Feather Fire Forest Garden Harbour Harvest Hill
Horizon Hour House Island Journey Key Lantern Letter Light Map Mirror Moon Mountain Night Ocean Orchard Path
Portrait River Road Rose Sea Season Shadow Shore Song Star Stone Storm Tide Tower Valley Voice Wall Wind Window
""".split()
_ORGANISATIONS = """
Academy Bank Circle College Company Foundation Gallery Guild Hospital Institute Laboratory Library Museum
Observatory Press School Society Theatre Trust University
""".split()
_BEFORE = """
Central East Great High Inner Lesser Lower New North Old Outer Royal Saint South Upper West
""".split()
_AFTER = """
Bay Bridge Cross Falls Grove Heath Hill Lake Landing Park Point Quay Rock Springs Vale Wells
""".split()
_INITIALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _words(count: int, syllables: int, endings: Sequence[str] = ("",)) -> list[str]:
    """`count` words of a lexicon that is the same in every world."""
    generator = random.Random(f"lexicon/{count}/{syllables}/{' '.join(endings)}")

    def draw() -> Iterator[str]:
        while True:
            parts = [
                generator.choice(_ONSETS) + generator.choice(_VOWELS) + generator.choice(_CODAS)
                for _ in range(syllables)
            ]
            yield ("".join(parts) + generator.choice(endings)).capitalize()

    found: dict[str, None] = {}
    for word in draw():
        found[word] = None
        if len(found) == count:
            break
    return list(found)


FIRST_NAMES = _words(200, 2)
SURNAMES = _words(600, 3)
TOWNS = _words(400, 1, _TOWN_ENDINGS)
REGIONS = _words(100, 1, _REGION_ENDINGS)
BRANDS = _words(120, 1, _BRAND_ENDINGS)


class Namer:
    """Draws names; no name is given twice. Where short ones run out, names grow by a word."""

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._taken: set[str] = set()

    def person(self) -> str:
        """First name and surname, in crowded worlds with initials between them."""
        return self._unique(
            lambda extra: " ".join(
                [self._one(FIRST_NAMES), *(f"{self._one(_INITIALS)}." for _ in range(extra)), self._one(SURNAMES)]
            )
        )

    def city(self) -> str:
        """A town's word; every third has a relative such as New or Upper."""
        return self._unique(lambda extra: self._place(TOWNS, extra))

    def region(self) -> str:
        """A region's word, in crowded worlds with more."""
        return self._unique(lambda extra: self._place(REGIONS, extra))

    def work(self) -> str:
        """Adjective, noun, and a town's word: works share words with each other and with towns."""
        return self._unique(
            lambda extra: (
                f"{self._one(_ADJECTIVES)} {self._one(_NOUNS)} of "
                + " ".join([*(self._one(_BEFORE) for _ in range(extra)), self._one(TOWNS)])
            )
        )

    def organisation(self) -> str:
        """A brand and a kind: such as Velmora Institute."""
        return self._unique(
            lambda extra: " ".join(
                [
                    *(self._one(_BEFORE) for _ in range(extra)),
                    self._one(BRANDS),
                    self._one(_ORGANISATIONS),
                ]
            )
        )

    def _place(self, words: Sequence[str], extra: int) -> str:
        before = 1 if self._random.random() < 0.3 else 0
        after = 1 if extra and self._random.random() < 0.7 else 0
        return " ".join(
            [
                *(self._one(_BEFORE) for _ in range(before + max(extra - 1, 0))),
                self._one(words),
                *(self._one(_AFTER) for _ in range(after)),
            ]
        )

    def _one(self, words: Sequence[str]) -> str:
        return self._random.choice(words)

    def _unique(self, draw: Callable[[int], str]) -> str:
        """The first name not yet taken; every eight that are taken, names grow by a word."""
        tries = 0
        while (name := draw(tries // 8)) in self._taken:
            tries += 1
        self._taken.add(name)
        return name
