"""One short passage an entity, in one of several wordings."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tspo.datasets.corpus import Document
from tspo.datasets.world.facts import KINDS, RELATIONS, Entity, World

# {it} is the entity, {x} the object of the relation.
_SENTENCES: dict[str, tuple[str, ...]] = {
    "setting": ("{it} is set in {x}.", "{it} takes place in {x}.", "The story of {it} plays in {x}."),
    "birthplace": ("{it} was born in {x}.", "{it} comes from {x}.", "{it} is a native of {x}."),
    "employer": ("{it} works for {x}.", "{it} is employed by {x}.", "{it} has a post at {x}."),
    "teacher": ("{it} was taught by {x}.", "{it} studied under {x}.", "{it} was a pupil of {x}."),
    "founder": ("{it} was founded by {x}.", "{it} was started by {x}.", "{it} goes back to {x}."),
    "seat": ("{it} has its seat in {x}.", "{it} is based in {x}.", "{it} has its offices in {x}."),
    "region": ("{it} lies in {x}.", "{it} is a town in {x}.", "{it} belongs to {x}."),
    "mayor": ("{it} has {x} as its mayor.", "The mayor of {it} is {x}.", "{it} is led by its mayor {x}."),
    "capital": ("{it} has {x} as its capital.", "The capital of {it} is {x}.", "{it} is ruled from {x}."),
    "governor": ("{it} is governed by {x}.", "The governor of {it} is {x}.", "{it} has {x} as its governor."),
}
_CREATOR: dict[str, tuple[str, ...]] = {
    "novel": ("{it} is a novel by {x}.", "{it} is a novel that {x} wrote.", "The novel {it} was written by {x}."),
    "film": ("{it} is a film by {x}.", "{it} is a film that {x} directed.", "The film {it} was directed by {x}."),
    "opera": ("{it} is an opera by {x}.", "{it} is an opera that {x} composed.", "The opera {it} was composed by {x}."),
}
_AGAIN = {"person": ("He", "She"), "city": ("It",), "region": ("It",), "work": ("It",), "organisation": ("It",)}
_ALIAS_SHARE = 0.15
"""How often a town, a region or an organisation is mentioned by its other name."""

_RELATIONS_OF = {
    kind: tuple(relation.name for relation in RELATIONS.values() if relation.subject == kind) for kind in KINDS
}


def passages(world: World) -> Iterator[Document]:
    """Every entity's passage, in the order of the kinds."""
    for kind, names in world.names.items():
        for index in range(len(names)):
            yield passage(world, Entity(kind, index))


def passage(world: World, entity: Entity) -> Document:
    """The passage about `entity`: its facts in an order and a wording that the world's seed decides."""
    generator = random.Random(f"passage/{world.seed}/{entity.kind}/{entity.index}")
    relations = list(_RELATIONS_OF[entity.kind])
    generator.shuffle(relations)
    again = generator.choice(_AGAIN[entity.kind])
    name = world.name(entity)
    sentences = []
    for number, relation in enumerate(relations):
        wordings = _CREATOR[world.work_kind(entity)] if relation == "creator" else _SENTENCES[relation]
        # A later sentence says "it"; where that would not open the sentence, it says the name again.
        wording = generator.choice(wordings)
        it = again if number and wording.startswith("{it}") else name
        sentences.append(wording.format(it=it, x=_mention(world, world.object(entity, relation), generator)))
    return Document(f"{entity.kind}-{entity.index}", f'"{name}"\n{" ".join(sentences)}')


def _mention(world: World, entity: Entity, generator: random.Random) -> str:
    if entity.kind in ("city", "region", "organisation") and generator.random() < _ALIAS_SHARE:
        return generator.choice(world.aliases(entity))
    return world.name(entity)
