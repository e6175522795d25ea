"""Entities and the facts about them: every relation gives each subject exactly one object."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tspo.datasets.world.names import Namer
from tspo.errors import BadInput

SMALLEST, LARGEST = 100, 1_000_000

KINDS = {"person": 0.40, "work": 0.20, "organisation": 0.20, "city": 0.15, "region": 0.05}
"""Kinds of entity with their share of the passages."""

WORK_KINDS = ("novel", "film", "opera")


@dataclass(frozen=True, slots=True)
class Relation:
    """A function from every entity of one kind to an entity of another."""

    name: str
    subject: str
    object: str


RELATIONS = {
    relation.name: relation
    for relation in (
        Relation("creator", "work", "person"),
        Relation("setting", "work", "city"),
        Relation("birthplace", "person", "city"),
        Relation("employer", "person", "organisation"),
        Relation("teacher", "person", "person"),
        Relation("founder", "organisation", "person"),
        Relation("seat", "organisation", "city"),
        Relation("region", "city", "region"),
        Relation("mayor", "city", "person"),
        Relation("capital", "region", "city"),
        Relation("governor", "region", "person"),
    )
}


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """The `index`-th entity of its kind."""

    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class World:
    """All names and facts; `objects[relation][i]` is the index of the object for the subject with index i."""

    seed: int
    names: Mapping[str, Sequence[str]]
    objects: Mapping[str, Sequence[int]]

    def __len__(self) -> int:
        """The number of entities, which is the number of passages."""
        return sum(map(len, self.names.values()))

    def name(self, entity: Entity) -> str:
        """The name that titles the entity's passage."""
        return self.names[entity.kind][entity.index]

    def object(self, entity: Entity, relation: str) -> Entity:
        """What `relation` gives for `entity`."""
        return Entity(RELATIONS[relation].object, self.objects[relation][entity.index])

    def work_kind(self, entity: Entity) -> str:
        """Whether a work is a novel, a film or an opera."""
        return WORK_KINDS[entity.index % len(WORK_KINDS)]

    def aliases(self, entity: Entity) -> tuple[str, ...]:
        """Other names by which the entity goes; answers may use them."""
        name = self.name(entity)
        match entity.kind:
            case "person":
                *first, surname = name.split()
                return (f"{' '.join(part[0] + '.' for part in first)} {surname}",)
            case "city":
                return (f"{name} City",)
            case "region":
                return (f"Province of {name}",)
            case "organisation":
                *stem, kind = name.split()
                return (f"{kind} of {' '.join(stem)}",)
            case _:
                return (f"The {name}",)


def make_world(passages: int, seed: int) -> World:
    """A world of `passages` entities, the same for the same seed.

    Raises BadInput for a size outside 100 to 1,000,000.
    """
    if not SMALLEST <= passages <= LARGEST:
        raise BadInput(f"a world has {SMALLEST:,} to {LARGEST:,} passages, not {passages:,}")
    generator = random.Random(f"world/{seed}")
    counts = {kind: round(passages * share) for kind, share in KINDS.items()}
    counts["person"] += passages - sum(counts.values())
    namer = Namer(generator)
    # Towns and regions first: works and organisations are named after them.
    names = {
        kind: [getattr(namer, kind)() for _ in range(counts[kind])]
        for kind in ("city", "region", "person", "work", "organisation")
    }
    objects: dict[str, Sequence[int]] = {}
    for relation in RELATIONS.values():
        subjects, choices = counts[relation.subject], counts[relation.object]
        drawn = array("i", (generator.randrange(choices) for _ in range(subjects)))
        if relation.subject == relation.object:
            for i, other in enumerate(drawn):
                if other == i:  # nobody is their own teacher
                    drawn[i] = (i + 1) % choices
        objects[relation.name] = drawn
    return World(seed, names, objects)
