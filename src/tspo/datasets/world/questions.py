"""Questions that follow one, two or three facts from an entity to an answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tspo.datasets.questions import Question
from tspo.datasets.world.facts import RELATIONS, Entity, World
from tspo.errors import BadInput
from tspo.rewards.matching import normalize_answer

MOST_HOPS = 3
_TRIES = 200
"""Draws for one question before the world counts as used up."""

_PHRASES: dict[str, tuple[str, ...]] = {
    "novel": ("the author of {x}", "the writer of {x}"),
    "film": ("the director of {x}", "the maker of {x}"),
    "opera": ("the composer of {x}", "the writer of {x}"),
    "setting": ("the setting of {x}", "the town where {x} takes place"),
    "birthplace": ("the birthplace of {x}", "the town where {x} was born"),
    "employer": ("the employer of {x}", "the organisation that employs {x}"),
    "teacher": ("the teacher of {x}", "the person who taught {x}"),
    "founder": ("the founder of {x}", "the person who founded {x}"),
    "seat": ("the seat of {x}", "the town that is home to {x}"),
    "region": ("the region of {x}", "the region around {x}"),
    "mayor": ("the mayor of {x}", "the person who leads {x}"),
    "capital": ("the capital of {x}", "the main town of {x}"),
    "governor": ("the governor of {x}", "the person who governs {x}"),
}
_ASKED: dict[str, tuple[str, ...]] = {
    "novel": ("Who wrote {x}?", "Who is the author of {x}?"),
    "film": ("Who directed {x}?", "Who is the director of {x}?"),
    "opera": ("Who composed {x}?", "Who is the composer of {x}?"),
    "setting": ("Where does {x} take place?", "In which town is {x} set?"),
    "birthplace": ("Where was {x} born?", "What is the birthplace of {x}?"),
    "employer": ("For whom does {x} work?", "What is the employer of {x}?"),
    "teacher": ("Who taught {x}?", "Who is the teacher of {x}?"),
    "founder": ("Who founded {x}?", "Who is the founder of {x}?"),
    "seat": ("Where does {x} have its seat?", "In which town is {x} based?"),
    "region": ("In which region is {x}?", "What is the region of {x}?"),
    "mayor": ("Who is the mayor of {x}?", "Who leads {x} as its mayor?"),
    "capital": ("What is the capital of {x}?", "From where is {x} ruled?"),
    "governor": ("Who governs {x}?", "Who is the governor of {x}?"),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """`relations[i]` leads from `entities[i]` to `entities[i + 1]`; the last entity is the answer."""

    entities: tuple[Entity, ...]
    relations: tuple[str, ...]

    @property
    def facts(self) -> frozenset[tuple[Entity, str]]:
        """The facts it goes through."""
        return frozenset(zip(self.entities, self.relations, strict=False))


@dataclass(frozen=True, slots=True)
class WorldQuestion:
    """A question, and the chain that answers it."""

    question: Question
    chain: Chain


@dataclass(frozen=True, slots=True)
class Split:
    """Questions to train on and to test on; no fact serves both."""

    train: list[WorldQuestion]
    test: list[WorldQuestion]


def make_questions(world: World, train: int, test: int, hops: Sequence[int], seed: int) -> Split:
    """`train` and `test` questions, as many of each number of hops; the same for the same seed.

    No fact that a test question goes through is in any training question, and no question is asked twice.
    Raises BadInput where the world is too small for so many.
    """
    generator = random.Random(f"questions/{world.seed}/{seed}")
    spent: set[tuple[Entity, str]] = set()
    asked: set[Chain] = set()
    test_questions = list(_draw(world, test, hops, "test", generator, spent, asked))
    spent.update(fact for made in test_questions for fact in made.chain.facts)
    return Split(list(_draw(world, train, hops, "train", generator, spent, asked)), test_questions)


def paths(hops: int) -> list[tuple[str, ...]]:
    """Every sequence of `hops` relations in which each starts from the kind that the last ends in."""
    longer: list[tuple[str, ...]] = [(name,) for name in RELATIONS]
    for _ in range(hops - 1):
        longer = [
            (*path, name)
            for path in longer
            for name, relation in RELATIONS.items()
            if RELATIONS[path[-1]].object == relation.subject
        ]
    return longer


def _draw(
    world: World,
    count: int,
    hops: Sequence[int],
    split: str,
    generator: random.Random,
    spent: set[tuple[Entity, str]],
    asked: set[Chain],
) -> Iterator[WorldQuestion]:
    choices = {length: paths(length) for length in hops}
    for number in range(count):
        length = hops[number % len(hops)]
        for _ in range(_TRIES):
            chain = _random_chain(world, generator.choice(choices[length]), generator)
            if len(set(chain.entities)) == length + 1 and chain not in asked and not (chain.facts & spent):
                text = _ask(world, chain, generator)
                if not _gives_away(world, chain, text):
                    break
        else:
            raise BadInput(
                f"a world of {len(world):,} passages has no {split} question number {number + 1} of {length} hops "
                "that shares no fact with the other split; ask for fewer questions or more passages"
            )
        asked.add(chain)
        answer = chain.entities[-1]
        yield WorldQuestion(
            Question(
                id=f"{split}-{number:06d}",
                question=text,
                golden_answers=(world.name(answer), *world.aliases(answer)),
                data_source=f"world, {length} hop{'s' if length > 1 else ''}",
                supporting_titles=tuple(world.name(entity) for entity in chain.entities[:-1]),
                hops=length,
            ),
            chain,
        )


def _random_chain(world: World, relations: tuple[str, ...], generator: random.Random) -> Chain:
    kind = RELATIONS[relations[0]].subject
    entities = [Entity(kind, generator.randrange(len(world.names[kind])))]
    for relation in relations:
        entities.append(world.object(entities[-1], relation))
    return Chain(tuple(entities), relations)


def _ask(world: World, chain: Chain, generator: random.Random) -> str:
    text = world.name(chain.entities[0])
    for entity, relation in zip(chain.entities, chain.relations[:-1], strict=False):
        text = generator.choice(_PHRASES[_wording(world, entity, relation)]).format(x=text)
    return generator.choice(_ASKED[_wording(world, chain.entities[-2], chain.relations[-1])]).format(x=text)


def _wording(world: World, entity: Entity, relation: str) -> str:
    return world.work_kind(entity) if relation == "creator" else relation


def _gives_away(world: World, chain: Chain, text: str) -> bool:
    """Whether the question already says its answer, or a name on the way to it."""
    asked = normalize_answer(text)
    return any(normalize_answer(world.name(entity)) in asked for entity in chain.entities[1:])
