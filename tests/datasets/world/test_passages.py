import re

from tspo.datasets.world import RELATIONS, Entity, make_world, passage, passages
from tspo.retrieval.bm25 import BM25Retriever


def test_every_fact_stands_in_its_subjects_passage_under_one_of_its_names() -> None:
    world = make_world(400, 3)
    for relation in RELATIONS.values():
        for index in range(len(world.names[relation.subject])):
            subject = Entity(relation.subject, index)
            found = world.object(subject, relation.name)
            text = passage(world, subject).contents.partition("\n")[2]
            assert any(spelling in text for spelling in (world.name(found), *world.aliases(found)))


def test_titles_are_the_names_in_order_and_ids_are_unique() -> None:
    world = make_world(300, 0)
    documents = list(passages(world))
    assert [document.title for document in documents] == [name for names in world.names.values() for name in names]
    assert len({document.id for document in documents}) == 300


def test_one_relation_is_worded_in_several_ways_and_facts_come_in_several_orders() -> None:
    world = make_world(500, 1)
    texts = [passage(world, Entity("person", index)).contents.partition("\n")[2] for index in range(100)]
    shapes = {re.sub(r"[A-Z]\w+( of)?( [A-Z]\w+)?", "X", text) for text in texts}
    assert len(shapes) > 20


def test_passages_are_the_same_whatever_else_was_made_before() -> None:
    world = make_world(200, 5)
    alone = passage(world, Entity("work", 3))
    list(passages(world))
    assert passage(world, Entity("work", 3)) == alone


def test_a_name_finds_its_passage_among_the_distractors() -> None:
    world = make_world(1000, 2)
    retriever = BM25Retriever.build(passages(world))
    names = [name for names in world.names.values() for name in names]
    results = retriever.search(names, 3)
    found = [f'"{name}"\n' in "".join(hit.contents for hit in hits) for name, hits in zip(names, results, strict=True)]
    assert sum(found) / len(found) > 0.98
    crowded = [len(hits) == 3 for hits in results]
    assert sum(crowded) / len(crowded) > 0.9
