from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("transformers")

from tspo.datasets.world import World, WorldQuestion, make_questions, make_world, passages
from tspo.protocol import Answer, Search, parse_action
from tspo.retrieval.bm25 import BM25Retriever
from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import exact_match
from tspo.rollout.codec import Codec
from tspo.rollout.episode import Limits
from tspo.training.starter.demonstrator import SKILLED, WITH_HABITS, Demonstrator, Habits
from tspo.training.starter.recipe import PROMPT
from tspo.trajectory import Trajectory

LIMITS = Limits(max_turn_tokens=64, max_feedback_tokens=192, max_total_tokens=768)
Show = Callable[[Habits], list[Trajectory]]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(800, 9)


@pytest.fixture(scope="module")
def questions(world: World) -> list[WorldQuestion]:
    return make_questions(world, 240, 0, (1, 2, 3), 9).train


@pytest.fixture(scope="module")
def show(world: World, questions: list[WorldQuestion], tokenizer: Any) -> Show:
    retriever = BM25Retriever.build(passages(world))
    codec = Codec(tokenizer, PROMPT)

    def demonstrate(habits: Habits) -> list[Trajectory]:
        demonstrator = Demonstrator(world, retriever, codec, LIMITS, habits, 1)
        return [demonstrator.demonstrate(made) for made in questions]

    return demonstrate


def test_the_skilled_one_searches_every_hop_and_is_right(show: Show, questions: list[WorldQuestion]) -> None:
    shown = show(SKILLED)
    right = sum(exact_match(t.answer, t.golden_answers) for t in shown) / len(shown)
    assert right > 0.97  # a common name may hide a page behind its namesakes
    for trajectory, made in zip(shown, questions, strict=True):
        assert len(trajectory.turns) == len(made.chain.relations) + 1
        assert [turn.query for turn in trajectory.turns[:-1]] != []


def test_what_it_writes_is_what_the_agent_loop_would_read(show: Show) -> None:
    for trajectory in show(WITH_HABITS):
        *searches, last = [parse_action(turn.text) for turn in trajectory.turns]
        assert isinstance(last, Answer)
        assert last.text == trajectory.answer
        assert [action.query for action in searches if isinstance(action, Search)] == [
            turn.query for turn in trajectory.turns[:-1]
        ]
        assert len(trajectory.turns) <= LIMITS.max_turns
        assert all(len(turn.token_ids or []) <= LIMITS.max_turn_tokens for turn in trajectory.turns)


def test_habits_leave_many_wrong_and_many_near_misses(show: Show) -> None:
    shown = show(WITH_HABITS)
    right = [exact_match(t.answer, t.golden_answers) == 1 for t in shown]
    found = [first_occurrence([turn.feedback for turn in t.turns], t.golden_answers) is not None for t in shown]
    near = sum(f and not r for f, r in zip(found, right, strict=True)) / len(shown)
    assert 0.05 < sum(right) / len(shown) < 0.3
    assert near > 0.2


@pytest.mark.parametrize(("share", "turns"), [("goes_on", 2.0), ("checks", None), ("spells_out", None)])
def test_each_habit_shows(show: Show, share: str, turns: float | None) -> None:
    skilled = show(SKILLED)
    other = show(replace(SKILLED, **{share: 1.0 if share == "checks" else 0.0}))
    mean = [sum(len(t.turns) for t in shown) / len(shown) for shown in (skilled, other)]
    if turns is not None:
        assert mean[1] == turns
    else:
        assert mean[1] > mean[0]


def test_the_same_seed_shows_the_same(show: Show) -> None:
    assert [t.turns for t in show(WITH_HABITS)] == [t.turns for t in show(WITH_HABITS)]
