"""`tspo train --engine verl`: from the settings to a run on a Ray cluster."""

from __future__ import annotations

import os
import re
import traceback
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from tspo.config import RunConfig
from tspo.evaluation.report import write_report
from tspo.files import atomic_write
from tspo.training.materials import data_files
from tspo.training.run_folder import only_run_in, prepare_output
from tspo.training.verl.cluster import cluster, environment
from tspo.training.verl.metrics import last_checkpoint, merge_sessions
from tspo.training.verl.translation import checkpoint_folder, translate, work_folder

_SCREEN = 12
"""Lines of a worker's error that are shown; the file has all of them."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_translation(config: RunConfig) -> None:
    """Print verl's configuration of the run, with every value decided."""
    translated = translate(config, data_files(config.data).corpus, resume=False)
    print(OmegaConf.to_yaml(translated, resolve=True), end="")


def run_verl(config: RunConfig, *, resume: bool, console: Console) -> int:
    """Run or resume a training run on verl; 0 where it is complete, 1 where a worker failed.

    Raises BadInput where something is missing, before anything is loaded.
    """
    files = data_files(config.data)
    translated = translate(config, files.corpus, resume=resume)
    os.environ.update(environment(config))
    from tspo.training.verl.preflight import check_ready  # imports verl, which reads the environment

    with only_run_in(config.output_dir):
        questions = check_ready(config, files, translated, console)
        prepare_output(config, resume)
        questions.write(config)
        try:
            with cluster(config, translated):
                error = _run(translated)
        finally:
            merge_sessions(work_folder(config), config.output_dir / "metrics.jsonl")
        lines = _complete(config) if error is None else _failed(config, error)
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 0 if error is None else 1


def _run(translated: Any) -> BaseException | None:
    """verl's own run; what a worker failed with, to be said later: Ray prints workers' logs until it is left."""
    from ray.exceptions import RayError
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    try:
        run_ppo(translated, TaskRunnerV1)
    except RayError as error:
        return error
    return None


def _complete(config: RunConfig) -> list[str]:
    return [
        f"checkpoints: {checkpoint_folder(config)}",
        f"metrics: {config.output_dir / 'metrics.jsonl'}",
        f"trajectories: {config.output_dir / 'trajectories'}",
        f"report: {write_report(config.output_dir)}",
    ]


def _failed(config: RunConfig, error: BaseException) -> list[str]:
    log = work_folder(config) / "error.log"
    with atomic_write(log) as stream:
        stream.write("".join(traceback.format_exception(error)))
    step = last_checkpoint(checkpoint_folder(config))
    return [failure(error), f"all of it: {log}", f"--resume goes on after step {step}"]


def failure(error: BaseException) -> str:
    """What went wrong in a worker, in one screen: the innermost error, without what would move a terminal's cursor."""
    while (cause := getattr(error, "cause", None)) is not None and cause is not error:
        error = cause
    lines = [line for line in _CONTROL.sub("", str(error)).splitlines() if line.strip()]
    shown = lines if len(lines) <= _SCREEN else [*lines[:_SCREEN], "..."]
    return "\n".join([f"verl stopped: {type(error).__name__}", *(f"  {line}" for line in shown)])
