"""`tspo train` and `tspo evaluate` from Python: on questions, a retriever and a reward of one's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tspo.config import RunConfig, make_config
from tspo.datasets.golden_answers import golden_answers
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.evaluation.metrics import Summary
from tspo.retrieval.base import Retriever
from tspo.retrieval.places import IN_PYTHON
from tspo.rewards import Reward
from tspo.rewards.in_python import TurnReward, know_reward, reward_name
from tspo.training.checkpoints import is_whole
from tspo.training.materials import Given
from tspo.training.run import run_evaluation, run_training
from tspo.training.signals import Stopped

Section = Mapping[str, Any]
"""The keys of one section of a configuration file."""


class Trainer:
    """Trains a search agent on questions, a retriever and a reward of one's own: a run of `tspo train`, from Python.

    `model` is a name on the hub or a folder; `retriever` is anything with `search`, or the address of a service or an
    index folder. `reward` gives a trajectory one number a turn; without it the algorithm's own is taken. The sections
    are those of a configuration file, and `test_questions` are answered before and after the training. What the run
    prints goes to `console`. Raises BadInput for what `tspo train` would refuse.
    """

    def __init__(
        self,
        model: str,
        questions: Sequence[Question],
        *,
        retriever: Retriever | str,
        reward: TurnReward | Reward | None = None,
        test_questions: Sequence[Question] = (),
        output_dir: str | Path = "runs/run",
        seed: int = 0,
        device: str = "auto",
        rollout: Section | None = None,
        credit: Section | None = None,
        training: Section | None = None,
        warmup: Section | None = None,
        evaluation: Section | None = None,
        console: Console | None = None,
    ) -> None:
        credit = dict(credit or {})
        if reward is not None:
            if "reward" in credit:
                raise BadInput("Trainer: credit.reward: there is reward= already; leave one of them out")
            credit["reward"] = reward_name(reward)
        output = Path(output_dir)
        self.config: RunConfig = _config(
            "Trainer",
            model,
            retriever,
            rollout,
            output_dir=str(output),
            seed=seed,
            device=device,
            data={
                "train": [str(output / "questions.jsonl")],
                "test": [str(output / "test_questions.jsonl")] if test_questions else [],
            },
            credit=credit,
            training=training,
            warmup=warmup,
            evaluation=evaluation,
        )
        """The run's settings, whole and checked: what its config.yaml will say."""
        self._given = Given(
            _checked("questions", questions),
            _checked("test_questions", test_questions) if test_questions else [],
            None if isinstance(retriever, str) else retriever,
        )
        if self.config.credit.to_config().rewards.needs == "passages":
            _check_passages(self._given.train)
        self._reward = reward
        self._console = console or Console()

    def train(self, *, resume: bool = False) -> Path:
        """Run all stages of `tspo train`, or go on from the last checkpoint; the folder of the trained model.

        Ctrl-C saves, and ends the program as it ends `tspo train`.
        """
        if self._reward is not None:
            know_reward(self._reward)
        try:
            run_training(self.config, resume=resume, console=self._console, given=self._given)
        except Stopped as stopped:
            self._console.print("Stopped; train(resume=True) goes on from here.")
            raise SystemExit(stopped.exit_code) from None
        return self._model

    def evaluate(self, questions: Sequence[Question], *, folder: str | Path | None = None) -> Summary:
        """How well the trained model, or before training the model as it is, answers `questions`.

        The trajectories and the summary are written to `folder`, by default evaluation/MODEL in `output_dir`.
        """
        model = str(self._model) if is_whole(self._model) else self.config.model
        config = self.config.model_copy(update={"model": model})
        given = Given([], _checked("questions", questions), self._given.retriever)
        place = config.output_dir / "evaluation" / _file_name(model) if folder is None else Path(folder)
        return run_evaluation(config, place, again=True, console=self._console, given=given)

    @property
    def _model(self) -> Path:
        return self.config.output_dir / "model"


def evaluate(
    model: str,
    questions: Sequence[Question],
    *,
    retriever: Retriever | str,
    folder: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    rollout: Section | None = None,
    evaluation: Section | None = None,
    console: Console | None = None,
) -> Summary:
    """How well `model` answers `questions`, as `tspo evaluate` measures it; for the arguments see `Trainer`.

    The trajectories and the summary are written to `folder`, by default runs/evaluation/MODEL. Raises BadInput.
    """
    place = Path("runs", "evaluation", _file_name(model)) if folder is None else Path(folder)
    config = _config(
        "evaluate",
        model,
        retriever,
        rollout,
        seed=seed,
        device=device,
        data={"train": [str(place / "questions.jsonl")]},  # settings want one; an evaluation does not read it
        evaluation=evaluation,
    )
    given = Given([], _checked("questions", questions), None if isinstance(retriever, str) else retriever)
    return run_evaluation(config, place, again=True, console=console or Console(), given=given)


def _config(where: str, model: str, retriever: Retriever | str, rollout: Section | None, **settings: Any) -> RunConfig:
    """The settings, checked as those of a file are; sections that are not given have their defaults."""
    if not isinstance(model, str):
        raise BadInput(f"{where}: model: expected a name or a folder, got {type(model).__name__}; save it to a folder")
    rollout = dict(rollout or {})
    if "retriever" in rollout:
        raise BadInput(f"{where}: rollout.retriever: there is retriever= already; leave it out")
    rollout["retriever"] = retriever
    if not isinstance(retriever, str):
        if not callable(getattr(retriever, "search", None)):
            raise BadInput(
                f"{where}: retriever: {type(retriever).__name__} has no search; docs/extend.md has an example"
            )
        if rollout.get("query_cache") is not None:
            raise BadInput(f"{where}: rollout.query_cache: is for a retriever that is named, not for an object")
        rollout["retriever"] = f"{IN_PYTHON}{type(retriever).__name__}"
    given = {name: value for name, value in settings.items() if value is not None}
    return make_config(copy.deepcopy({"model": model, "rollout": rollout} | given), where)


def _checked(name: str, questions: Sequence[Question]) -> list[Question]:
    """The questions, which can be written to a file and read again; raises BadInput otherwise."""
    seen: set[str] = set()
    for question in questions:
        if not isinstance(question, Question):
            raise BadInput(
                f"{name}: expected Questions, got {type(question).__name__}; tspo.read_questions reads files"
            )
        if question.id in seen:
            raise BadInput(f"{name}: two have the id {question.id!r}; give each its own")
        seen.add(question.id)
        answers = question.golden_answers
        golden_answers(list(answers) if isinstance(answers, tuple) else answers, f"{name}, {question.id!r}")
    if not seen:
        raise BadInput(f"{name}: there are none; give at least one")
    return [*questions]


def _check_passages(questions: Sequence[Question]) -> None:
    for question in questions:
        if not question.supporting_passages:
            raise BadInput(f"questions: {question.id!r} has no supporting_passages; the reward reads them")


def _file_name(model: str) -> str:
    return Path(model).name.replace(":", "-")
