"""`tspo train --engine verl`: from the settings to a run on a Ray cluster."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from tspo.config import RunConfig
from tspo.files import atomic_write
from tspo.training.data_files import data_files
from tspo.training.run_folder import only_run_in, prepare_output
from tspo.training.verl.translation import environment, translate


def print_translation(config: RunConfig) -> None:
    """Print verl's configuration of the run, with every value decided."""
    translated = translate(config, data_files(config.data).corpus, resume=False)
    print(OmegaConf.to_yaml(translated, resolve=True), end="")


def run_verl(config: RunConfig, *, resume: bool, console: Console) -> int:
    """Run or resume a training run on verl; 0 where it is complete, 1 where a worker failed.

    Raises BadInput where something is missing, before anything is loaded.
    """
    from tspo.training.verl.preflight import check_ready

    files = data_files(config.data)
    translated = translate(config, files.corpus, resume=resume)
    os.environ.update(environment(config))
    with only_run_in(config.output_dir):
        questions = check_ready(config, files, translated, console)
        prepare_output(config, resume)
        questions.write(config)
        with _ray(config, translated):
            return _run(config, translated, console)


def _run(config: RunConfig, translated: Any, console: Console) -> int:
    from ray.exceptions import RayError
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    try:
        run_ppo(translated, TaskRunnerV1)
    except RayError as error:
        log = config.output_dir / "verl" / "error.log"
        with atomic_write(log) as stream:
            stream.write("".join(traceback.format_exception(error)))
        console.print(failure(error), markup=False, highlight=False, soft_wrap=True)
        console.print(f"all of it: {log}", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def failure(error: BaseException) -> str:
    return f"verl: {type(error).__name__}: {str(error).strip().splitlines()[-1]}"


@contextmanager
def _ray(config: RunConfig, translated: Any) -> Iterator[None]:
    """Ray, started here or joined, with what the run's processes need."""
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    runtime: dict[str, Any] = get_ppo_ray_runtime_env(translated)
    runtime["env_vars"] |= environment(config) | {
        "TRANSFER_QUEUE_ENABLE": "1",
        "VERL_FILE_LOGGER_PATH": str(config.output_dir / "verl" / "metrics.jsonl"),
    }
    arguments: dict[str, Any] = {"runtime_env": runtime}
    if config.verl.ray == "local":
        if config.device == "cpu":
            arguments |= {"num_gpus": config.verl.nodes * config.verl.gpus_per_node, "num_cpus": 64}
    else:
        arguments["address"] = config.verl.ray
    ray.init(**arguments)
    try:
        yield
    finally:
        ray.shutdown()
