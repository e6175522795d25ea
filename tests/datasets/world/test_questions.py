from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.datasets.world import RELATIONS, make_questions, make_world
from tspo.datasets.world.questions import paths
from tspo.errors import BadInput
from tspo.rewards.matching import exact_match


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), hops=st.sampled_from([(1,), (2,), (3,), (2, 3), (1, 2, 3)]))
def test_no_fact_serves_both_splits(seed: int, hops: tuple[int, ...]) -> None:
    world = make_world(1500, seed)
    split = make_questions(world, 90, 45, hops, seed)
    assert (len(split.train), len(split.test)) == (90, 45)
    in_test = {fact for made in split.test for fact in made.chain.facts}
    assert not any(made.chain.facts & in_test for made in split.train)
    chains = [made.chain for made in (*split.train, *split.test)]
    assert len(set(chains)) == len(chains)
    ids = [made.question.id for made in (*split.train, *split.test)]
    assert len(set(ids)) == len(ids)


def test_the_chain_leads_from_the_question_to_the_answer() -> None:
    world = make_world(1000, 0)
    for made in make_questions(world, 60, 30, (1, 2, 3), 0).train:
        chain, question = made.chain, made.question
        entity = chain.entities[0]
        assert world.name(entity) in question.question
        for relation, after in zip(chain.relations, chain.entities[1:], strict=True):
            entity = world.object(entity, relation)
            assert entity == after
        assert exact_match(world.name(entity), question.golden_answers) == 1
        assert all(exact_match(alias, question.golden_answers) == 1 for alias in world.aliases(entity))
        assert not any(world.name(other) in question.question for other in chain.entities[1:])
        assert question.supporting_titles == tuple(world.name(other) for other in chain.entities[:-1])
        assert question.data_source == f"world, {len(chain.relations)} hop{'s' if len(chain.relations) > 1 else ''}"


def test_hops_are_equally_many() -> None:
    split = make_questions(make_world(1000, 0), 60, 30, (1, 3), 0)
    assert sum(len(made.chain.relations) == 3 for made in split.test) == 15


def test_the_same_seed_asks_the_same_questions() -> None:
    world = make_world(1000, 0)
    assert make_questions(world, 30, 30, (1, 2), 4) == make_questions(world, 30, 30, (1, 2), 4)
    assert make_questions(world, 30, 30, (1, 2), 4) != make_questions(world, 30, 30, (1, 2), 5)


def test_paths_fit_together() -> None:
    assert len(paths(1)) == len(RELATIONS)
    for path in paths(3):
        for before, after in pairwise(path):
            assert RELATIONS[before].object == RELATIONS[after].subject


def test_a_world_that_is_too_small_says_so() -> None:
    with pytest.raises(BadInput, match=r"a world of 100 passages has no train question .* more passages"):
        make_questions(make_world(100, 0), 2000, 10, (3,), 0)
