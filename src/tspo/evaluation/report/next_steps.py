"""What a reader can do next with what the run left."""

from __future__ import annotations

from dataclasses import dataclass

from tspo.evaluation.report.headline import setting
from tspo.evaluation.report.run_files import RunFiles
from tspo.retrieval.places import IN_PYTHON
from tspo.rewards.in_python import is_in_python


@dataclass(frozen=True, slots=True)
class NextStep:
    """Something to open or to run in the run's folder."""

    what: str
    command: str = ""
    link: str = ""
    """A path in the run's folder."""


def next_steps(run: RunFiles) -> list[NextStep]:
    """What there is to open and to run; only what the folder holds the files for."""
    steps = []
    for link, what in (
        ("model/", "the trained model; loads with transformers as any other"),
        ("metrics.jsonl", "every number of every step"),
        ("trajectories/", "every trajectory trained on, with its credit"),
        ("evaluation/", "what the model did on each held-out question, and the scores"),
        ("config.yaml", "the settings"),
    ):
        if (run.folder / link).exists():
            steps.append(NextStep(what, link=link))
    has_model, has_settings = (run.folder / "model" / "whole.json").is_file(), bool(run.settings)
    own_retriever = str(setting(run.settings, "rollout", "retriever")).startswith(IN_PYTHON)
    in_python = own_retriever or is_in_python(setting(run.settings, "credit", "reward"))
    if has_settings and run.steps and not has_model:
        engine = "--engine verl " if (run.folder / "verl").is_dir() else ""
        resume = "trainer.train(resume=True)" if in_python else f"tspo train {engine}config.yaml --resume"
        steps.append(NextStep("go on with the training", resume))
    if has_settings and has_model:
        evaluate = "trainer.evaluate(questions)" if own_retriever else "tspo evaluate config.yaml model=./model"
        steps.append(NextStep("evaluate the model again", evaluate))
    if run.steps:
        last = f"trajectories/{run.steps[max(run.steps)].name}"
        steps.append(NextStep("see a step's credit under other options", f"tspo credit {last} --algorithm grpo"))
    steps.append(NextStep("make this page again", "tspo report ."))
    return steps
