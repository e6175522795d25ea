"""What was run and what it reached, in one sentence and one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from tspo.evaluation.metrics import Estimate, SourceSummary, bootstrap_interval
from tspo.evaluation.report.run_files import STAGES, RunFiles
from tspo.evaluation.report.text import shorten
from tspo.rewards.matching import exact_match
from tspo.trajectory import Trajectory, group_trajectories

_COLUMNS = {
    "exact_match": ("exact match", 3),
    "f1": ("F1", 3),
    "answer_in_feedback": ("answer found", 3),
    "searches": ("searches", 2),
    "turns": ("turns", 2),
}
_MOST_SOURCES = 40
_MOST_FILES = 4
_NAME = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of one data source in the table."""

    source: str
    stage: str
    questions: int
    cells: list[tuple[str, str]]
    """A mean and its interval."""
    rows_of_source: int
    """How many rows the source has; 0 in all but its first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The headline of one evaluation: exact match on all its questions."""

    name: str
    questions: int
    mean: str
    interval: str
    at: float
    low: float
    high: float
    """Places on a scale of 100."""


@dataclass(frozen=True, slots=True)
class Change:
    """The difference in exact match between two stages, over the questions of both."""

    before: str
    after: str
    questions: int
    difference: str
    interval: str
    reading: str


def sentence(run: RunFiles) -> str:
    """What was run: model, algorithm, steps, G, data; what is not known is left out."""
    model, method = setting(run.settings, "model"), setting(run.settings, "credit", "algorithm")
    said = shorten(str(model), _NAME) if model else "A model"
    if epochs := setting(run.settings, "warmup", "epochs"):
        said += f", warmed up for {epochs:g} epochs" if isinstance(epochs, int | float) else ", warmed up"
    said += f", trained with {shorten(str(method), _NAME).upper()}" if method else ", trained"
    if steps := steps_done(run):
        said += f" for {steps}"
    questions, group = (setting(run.settings, "training", name) for name in ("groups_per_step", "group_size"))
    if questions and group:
        said += f" ({questions} questions × G = {group} trajectories each)"
    if isinstance(world := setting(run.settings, "data", "world"), dict):
        said += f" on {shorten(str(world.get('train_questions')), _NAME)} questions of the embedded world"
    for what, name in ((" on ", "train"), ("; tested on ", "test")):
        if files := _file_names(setting(run.settings, "data", name)):
            said += what + files
    return said + "."


def steps_done(run: RunFiles) -> str:
    """How far training came, and of how many steps where that is known."""
    done = max([int(line["step"]) for line in run.metrics] + list(run.steps), default=0)
    wanted = setting(run.settings, "training", "steps")
    if not done and not wanted:
        return ""
    return f"{done} of {wanted} steps" if wanted else f"{done} steps"


def setting(settings: Any, *path: str) -> Any:
    """The setting at a path of keys, or None."""
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def column_names() -> list[str]:
    """The heads of the table's numbers."""
    return [name for name, _ in _COLUMNS.values()]


def table(run: RunFiles) -> list[Row]:
    """All questions first, then each data source; a row a stage."""
    sources = sorted({source for summary in run.summaries.values() for source in summary.by_source})
    rows = _rows("all", {stage: summary.overall for stage, summary in run.summaries.items()})
    for source in sources[:_MOST_SOURCES] if len(sources) > 1 else ():
        stages = {
            stage: summary.by_source[source] for stage, summary in run.summaries.items() if source in summary.by_source
        }
        rows += _rows(shorten(source, _NAME), stages)
    return rows


def stages(run: RunFiles) -> list[Stage]:
    """Exact match in each evaluation there is."""
    found = []
    for stage, summary in run.summaries.items():
        estimate = summary.overall.metrics["exact_match"]
        mean, interval = _cell(estimate, 3)
        places = [round(100 * end, 2) for end in (estimate.mean, estimate.low, estimate.high)]
        found.append(Stage(STAGES[stage], summary.overall.questions, mean, interval, *places))
    return found


def changes(run: RunFiles) -> list[Change]:
    """From the stage that training began with, and from the untrained model where that is another, to the last."""
    stages = list(run.evaluated)
    last = "after-training"
    if last not in stages:
        return []
    found = [_change(run.evaluated, stage) for stage in reversed(stages[:-1])]
    return [change for change in found if change is not None]


def _rows(source: str, stages: dict[str, SourceSummary]) -> list[Row]:
    return [
        Row(
            source=source,
            stage=STAGES[stage],
            questions=summary.questions,
            cells=[_cell(summary.metrics[metric], digits) for metric, (_, digits) in _COLUMNS.items()],
            rows_of_source=len(stages) if place == 0 else 0,
        )
        for place, (stage, summary) in enumerate(stages.items())
    ]


def _cell(estimate: Estimate, digits: int) -> tuple[str, str]:
    return f"{estimate.mean:.{digits}f}", f"[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _change(evaluated: dict[str, list[Trajectory]], stage: str) -> Change | None:
    before, after = (_by_question(evaluated[name]) for name in (stage, "after-training"))
    both = [question for question in before if question in after]
    if not both:
        return None
    differences = np.array([after[question] - before[question] for question in both])
    low, high = bootstrap_interval(differences)
    if low > 0 or high < 0:
        reading = "The interval does not include 0."
    else:
        reading = "The interval includes 0: on these questions no difference can be told from chance."
    return Change(
        before=STAGES[stage],
        after=STAGES["after-training"],
        questions=len(both),
        difference=signed(float(differences.mean()), 3),
        interval=f"[{signed(low, 3)}, {signed(high, 3)}]",
        reading=reading,
    )


def _by_question(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    return {
        group.group_id: float(np.mean([exact_match(t.answer, t.golden_answers) for t in group.trajectories]))
        for group in group_trajectories(trajectories)
    }


def signed(value: float, digits: int) -> str:
    """A number with its sign, 0 without one."""
    return "0" if value == 0 else f"{value:+.{digits}f}".replace("-", "−")


def _file_names(value: Any) -> str:
    paths = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    names = [shorten(PurePath(str(path)).name, _NAME) for path in paths[:_MOST_FILES]]
    if len(paths) > len(names):
        names.append(f"{len(paths) - len(names)} more files")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
