"""The embedded world: a fictional knowledge base, its passages, and questions of one to three hops."""

from tspo.datasets.world.facts import KINDS, RELATIONS, Entity, Relation, World, make_world
from tspo.datasets.world.files import WorldFiles, world_files, write_world
from tspo.datasets.world.passages import passage, passages
from tspo.datasets.world.questions import Chain, Split, WorldQuestion, make_questions

__all__ = [
    "KINDS",
    "RELATIONS",
    "Chain",
    "Entity",
    "Relation",
    "Split",
    "World",
    "WorldFiles",
    "WorldQuestion",
    "make_questions",
    "make_world",
    "passage",
    "passages",
    "world_files",
    "write_world",
]
