"""Somebody who shows how to search: skilled, or with bad habits.

The starter first learns from a skilled demonstrator, then from one with habits. It so keeps the skill and
shows the habits: it can do better than it does, which is what reinforcement learning needs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tspo.datasets.world import RELATIONS, Entity, World, WorldQuestion
from tspo.retrieval.base import Retriever
from tspo.rollout.codec import Codec
from tspo.rollout.episode import Limits
from tspo.training.demonstrations import demonstrated_turn
from tspo.trajectory import StopReason, Trajectory, Turn

_NAME = r"(?:[A-Z]\.|[A-Z]\w+)(?: (?:of )?(?:[A-Z]\.|[A-Z]\w+))*"
"""Capitalised words and initials, with "of" between them; a full stop ends a name unless it is an initial's."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How often the demonstrator does what; all shares are 0 to 1.

    `reads` and `answers`: how often it takes the right name from the passages, on the way and for the
    answer, times `ease` of the relation. `goes_on`: how often it searches on where a hop is left.
    `spells_out`: how often the first query is the whole name. `retries`: how often it repairs a query
    that was not. `checks`: how often it looks up its answer before it gives it.
    """

    reads: float = 1.0
    answers: float = 1.0
    goes_on: float = 1.0
    spells_out: float = 1.0
    retries: float = 1.0
    checks: float = 0.0
    ease: Mapping[str, float] = field(default_factory=dict)


SKILLED = Habits()

WITH_HABITS = Habits(
    reads=0.55,
    answers=0.3,
    goes_on=0.7,
    spells_out=0.8,
    retries=0.5,
    checks=0.1,
    # Some relations come easier than others, so that groups differ in how often they are right.
    ease={
        "birthplace": 1.5,
        "creator": 1.3,
        "capital": 1.3,
        "region": 1.2,
        "employer": 1.0,
        "founder": 1.0,
        "mayor": 0.9,
        "setting": 0.8,
        "seat": 0.7,
        "governor": 0.6,
        "teacher": 0.5,
    },
)


class Demonstrator:
    """Answers questions of one world, as its habits have it."""

    def __init__(
        self, world: World, retriever: Retriever, codec: Codec, limits: Limits, habits: Habits, seed: int
    ) -> None:
        self.world = world
        self.retriever = retriever
        self.codec = codec
        self.limits = limits
        self.habits = habits
        self._random = random.Random(f"demonstrator/{seed}")
        self._entities = {
            spelling: Entity(kind, index)
            for kind, names in world.names.items()
            for index, name in enumerate(names)
            # Passages name people in full.
            for spelling in ((name,) if kind == "person" else (name, *world.aliases(Entity(kind, index))))
        }

    def demonstrate(self, made: WorldQuestion) -> Trajectory:
        """One trajectory from the question to an answer, or to the last turn there may be."""
        world, habits, draw = self.world, self.habits, self._random.random
        chain, question = made.chain, made.question
        relations = list(chain.relations)
        subject = chain.entities[0]
        turns: list[Turn] = []
        answer: str | None = None
        thought = f"I need the {self._word(relations[0], subject)}."
        query = world.name(subject)
        partial = draw() > habits.spells_out
        passages = self._search(thought, self._random.choice(query.split()) if partial else query, turns)
        if partial and draw() < habits.retries:
            passages = self._search(thought, query, turns)
        for hop, relation in enumerate(relations):
            last = hop == len(relations) - 1
            found, spelling = self._read(subject, relation, passages, habits.answers if last else habits.reads)
            thought = f"The {self._word(relation, subject)} is {spelling}."
            room = self.limits.max_turns - len(turns) > 1
            if last or not room or draw() > habits.goes_on:
                if room and draw() < habits.checks:
                    self._search(thought, spelling, turns)
                answer = spelling
                turns.append(demonstrated_turn(f"<think> {thought} </think>\n<answer> {answer} </answer>", self.codec))
                break
            subject = found
            thought += f" I need the {self._word(relations[hop + 1], subject)}."
            # "Province of X" is the region's name in passages about others; its own has X for a title.
            query = spelling if subject.kind == "organisation" else world.name(subject)
            passages = self._search(thought, query, turns)
        return Trajectory(
            group_id=question.id,
            trajectory_id=question.id,
            question=question.question,
            golden_answers=list(question.golden_answers),
            turns=turns,
            answer=answer,
            stop_reason=StopReason.ANSWER,
            prompt_token_ids=self.codec.prompt(question.question),
            extra={"data_source": question.data_source},
        )

    def _read(self, subject: Entity, relation: str, passages: str, share: float) -> tuple[Entity, str]:
        """What it takes for `relation` of `subject`, as it is spelled there: the right one where a habit permits."""
        mentioned = self._mentions(passages)
        right = None
        if RELATIONS[relation].subject == subject.kind and self._is_shown(subject, passages):
            right = self.world.object(subject, relation)
        if right in mentioned and self._random.random() < share * self.habits.ease.get(relation, 1.0):
            return right, mentioned[right]
        others = [entity for entity in mentioned if entity != right]
        found = self._random.choice(others) if others else subject
        return found, mentioned.get(found, self.world.name(found))

    def _is_shown(self, subject: Entity, passages: str) -> bool:
        return f'(Title: "{self.world.name(subject)}")' in passages

    def _mentions(self, passages: str) -> dict[Entity, str]:
        """The entities that are named in `passages`, in order, each with its first spelling there."""
        found: dict[Entity, str] = {}
        for words in re.findall(_NAME, passages):
            words = words.removeprefix("The ")
            if words in self._entities:
                found.setdefault(self._entities[words], words)
        return found

    def _word(self, relation: str, subject: Entity) -> str:
        if relation != "creator" or subject.kind != "work":
            return "author" if relation == "creator" else relation
        return {"novel": "author", "film": "director", "opera": "composer"}[self.world.work_kind(subject)]

    def _search(self, thought: str, query: str, turns: list[Turn]) -> str:
        """Search, append the turn, and return the passages as they are read."""
        contents = [passage.contents for passage in self.retriever.search([query], self.limits.top_k)[0]]
        feedback, feedback_ids = self.codec.feedback(contents, self.limits.max_feedback_tokens)
        text = f"<think> {thought} </think>\n<search> {query} </search>"
        turns.append(demonstrated_turn(text, self.codec, query, feedback, feedback_ids))
        return feedback
