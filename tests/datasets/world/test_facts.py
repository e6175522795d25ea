from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.datasets.world import KINDS, RELATIONS, Entity, make_world
from tspo.errors import BadInput


@settings(max_examples=20, deadline=None)
@given(passages=st.integers(100, 3000), seed=st.integers(0, 2**31))
def test_a_world_has_as_many_entities_as_passages_and_every_name_once(passages: int, seed: int) -> None:
    world = make_world(passages, seed)
    names = [name for names in world.names.values() for name in names]
    assert len(world) == len(names) == len(set(names)) == passages
    assert set(world.names) == set(KINDS)


@settings(max_examples=10, deadline=None)
@given(passages=st.integers(100, 1000), seed=st.integers(0, 99))
def test_every_relation_gives_every_subject_one_object_of_its_kind(passages: int, seed: int) -> None:
    world = make_world(passages, seed)
    for relation in RELATIONS.values():
        assert len(world.objects[relation.name]) == len(world.names[relation.subject])
        for index in range(len(world.names[relation.subject])):
            found = world.object(Entity(relation.subject, index), relation.name)
            assert found.kind == relation.object
            assert world.name(found)
            assert found != Entity(relation.subject, index)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert make_world(300, 7) == make_world(300, 7)
    assert make_world(300, 7).names != make_world(300, 8).names


def test_names_share_words_so_that_there_are_distractors() -> None:
    world = make_world(2000, 0)
    surnames = Counter(name.split()[1] for name in world.names["person"])
    shared = sum(count for count in surnames.values() if count > 1)
    assert shared > len(world.names["person"]) / 4
    stems = [name.split()[0] for name in world.names["organisation"]]
    assert len(set(stems)) < 0.9 * len(stems)


def test_aliases_are_other_names() -> None:
    world = make_world(200, 0)
    for kind, names in world.names.items():
        aliases = world.aliases(Entity(kind, 0))
        assert aliases
        assert names[0] not in aliases


@pytest.mark.parametrize("passages", [99, 1_000_001, 0, -5])
def test_a_size_out_of_range_is_refused(passages: int) -> None:
    with pytest.raises(BadInput, match="100 to 1,000,000"):
        make_world(passages, 0)


def test_in_a_crowded_world_names_grow() -> None:
    world = make_world(100_000, 0)
    names = [name for names in world.names.values() for name in names]
    assert len(set(names)) == 100_000
    assert max(len(name.split()) for name in names) <= 8
    for kind in KINDS:
        assert world.aliases(Entity(kind, len(world.names[kind]) - 1))
